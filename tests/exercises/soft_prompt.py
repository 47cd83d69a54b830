"""Chapter 15: the soft prompt's splice, and its gradient by hand.

The learned vector stands in the place of <extra_id_0> in any number of prompts, also none (LION
sec. 3). It is one vector for all of them: what does the loss tell it?
"""

from torch import Tensor


def splice(embeds: Tensor, ids: Tensor, hint_id: int, hint: Tensor) -> Tensor:
    """embeds [S,T,D], ids [S,T], hint [D] -> embeds with the hint wherever ids == hint_id;
    the embeds that were given stay as they are."""
    raise NotImplementedError


def hint_gradient(gradient: Tensor, ids: Tensor, hint_id: int) -> Tensor:
    """The loss's gradient of the spliced embeds [S,T,D] -> that of the hint, [D], without autograd."""
    raise NotImplementedError
