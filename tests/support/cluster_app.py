"""The application of the acceptance tests' workers, with a task of its own beside the processes."""

from __future__ import annotations

import os

from stbass.backends.celery import make_app

_NUMBERS = {"stbass_lease": "TEST_LEASE", "stbass_grace": "TEST_GRACE"}

app = make_app(
    "acceptance",
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    include=["tests.support.puppets", "tests.support.agents"],
    stbass_signing_key=os.environ.get("TEST_SIGNING_KEY"),
    **{name: float(os.environ[variable]) for name, variable in _NUMBERS.items() if variable in os.environ},
    # Celery cannot tell `-P prefork` from its default, so the setting decides.
    **({"worker_pool": os.environ["TEST_POOL"]} if "TEST_POOL" in os.environ else {}),
)


@app.task(name="tests.add")
def add(left: int, right: int) -> int:
    """An ordinary Celery task."""
    return left + right
