"""Which photos stand on the contact sheet, and why."""

from types import SimpleNamespace

import numpy as np
from looks import errors, face, photo

from deid_diffusion.evaluation.breakdown import worst_of


def test_the_likest_come_first_and_what_could_not_be_compared_is_no_likeness():
    looks = [
        photo("far", "a", face()),
        photo("blind", "b", face(mesh=errors(yaw=90.0))),
        photo("near", "c", face()),
        photo("left", "d", face(left=True)),
        photo("empty", "e", None),
    ]
    identity = SimpleNamespace(recogniser="colour", likeness=np.array([-0.25, -np.inf, 0.125, np.inf, -np.inf]))
    assert [(one.name, one.why) for one in worst_of(looks, identity, read=False)] == [
        ("left", "left as it was"),
        ("near", "likest by colour, 0.125 over the threshold: re-identified"),
        ("far", "likest by colour, 0.250 under the threshold"),
        ("blind", "kept 83% of the attributes"),
    ]
