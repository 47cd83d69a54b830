"""Solution: ask each stage what it reads."""


def first_mistake(order, stages):
    done = set()
    for number in order:
        needed = []
        stages[number].start(lambda n: needed.append(n) or {})
        if not done.issuperset(n for n in needed if isinstance(n, int)):
            return number
        done.add(number)
    return 0
