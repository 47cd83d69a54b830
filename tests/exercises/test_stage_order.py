"""Checks stage_order.py on the stages of LION and Lyrics."""

from checking import check

from lion_min.launch import stage_of


def test_first_mistake(student):
    for system, numbers, orders in (
            ("lion", (1, 2, 3, 4), {(1, 2, 3, 4): 0, (1, 3, 2, 4): 3, (2, 1, 3, 4): 0, (1, 2, 4, 3): 4,
                                    (2, 1): 0, (2, 3): 3, (4, 1, 2, 3): 4}),
            ("lyrics", (1, 2), {(1, 2): 0, (2, 1): 2})):
        stages = {number: stage_of(system, number) for number in numbers}
        for order, want in orders.items():
            got = student.first_mistake([*order], stages)
            said = f"stage {want} reads one that has not run" if want else "every stage finds what it reads"
            check(got == want, f"{system}, order {order}: {said}, so {want} is due, not {got}")
