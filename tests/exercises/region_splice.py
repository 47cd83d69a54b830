"""Chapter 7: PVIT's splice of region features into a prompt.

In the embedded prompts every slot of <Region> ... </Region> takes the next feature, in reading order:
all slots of the first prompt, then those of the second (PVIT, arXiv 2308.13437).
"""

from torch import Tensor


def splice_regions(embeds: Tensor, ids: Tensor, slot_id: int, features: Tensor) -> Tensor:
    """embeds [S,T,D], ids [S,T], features [R,D] -> [S,T,D]; the embeds that were given stay as they
    are. ValueError unless there is exactly one feature for each slot."""
    raise NotImplementedError
