"""Solution: ask each stage what it reads."""


def first_mistake(order, stages):
    done = set()
    for number in order:
        needed = []
        stages[number].start(lambda n: needed.extend([n] if n in stages else []) or {})
        if not done.issuperset(needed):
            return number
        done.add(number)
    return 0
