"""`python -m tests.faults.under_faults PLAN ...` is `dah ...` that suffers the faults of a plan."""

import sys

from tests.faults import seams
from tests.faults.plan import FaultPlan
from tests.faults.points import Who

if __name__ == "__main__":
    plan, *arguments = sys.argv[1:]
    seams.install(FaultPlan.from_json(plan), Who(arguments[0]))
    sys.argv = ["dah", *arguments]

    from diffusion_at_home.cli import main

    main()
