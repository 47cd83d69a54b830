"""Chapter 6: find the stage that runs too early.

`stage.start(earlier)` returns the tensors that a stage starts from and calls `earlier(number)`, a
function that you hand in, for each stage that it reads; a name such as "stage0/qformer" is a part of
stage 0, which has always run. In the order 1, 3, 2, 4 LION's stage 3 would
read a stage 2 that is not there. Not every order but 1, 2, 3, 4 is wrong.
"""


def first_mistake(order: list[int], stages: dict) -> int:
    """The first stage of the order that reads one which has not run; 0 where all is well.
    stages: number -> Stage. `earlier` may return {} here: only what is read matters."""
    raise NotImplementedError
