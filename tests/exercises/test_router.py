"""Checks router.py against MixtureOfAdapters."""

import torch
from checking import check, same

from lion_min.adapters import IMAGE, REGION, MixtureOfAdapters, identity_router


def mixture() -> tuple[MixtureOfAdapters, torch.Tensor]:
    torch.manual_seed(0)
    module = MixtureOfAdapters(6, 3, 2)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module, torch.randn(4, 6)


def test_mix(student):
    module, x = mixture()
    for name, module.task in (("region", REGION), ("image", IMAGE)):
        same(student.mix(x, [*module.adapters], module.router, module.task), module(x),
             f"the mix of the {name} task")


def test_borrow(student):
    module, x = mixture()
    given = identity_router(6)
    module.router.data = torch.as_tensor(student.borrow(given, IMAGE, 0.25))
    check(torch.equal(given, identity_router(6)), "borrow() changed the router that it was given")
    region, image = (adapter(x) for adapter in module.adapters)
    for module.task, want, name in ((IMAGE, image * .75 + region * .25, "image"),
                                    (REGION, region, "region")):
        same(module(x), want, f"what the {name} task adds after the image task borrowed a quarter")
