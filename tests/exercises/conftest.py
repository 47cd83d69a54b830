"""Each check gets the student's file of its own name: test_router.py checks router.py."""

import pytest
from checking import Student


@pytest.fixture
def student(request):
    return Student(request.path.with_name(request.path.name.removeprefix("test_")))
