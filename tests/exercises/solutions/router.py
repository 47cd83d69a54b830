"""Solution."""


def mix(x, adapters, router, task):
    return sum(router[k, task] * adapter(x) for k, adapter in enumerate(adapters))


def borrow(router, task, share):
    router = router.clone()
    router[task, task], router[1 - task, task] = 1 - share, share
    return router
