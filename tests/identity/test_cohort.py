import numpy as np
import pytest

from deid_diffusion.identity.cohort import NEAREST, dlib_cohort, similarity_of_strangers


def test_the_nearest_strangers_count() -> None:
    face = np.array([1, 0], np.float32)
    cosines = np.concatenate([np.full(50, 0.1), np.linspace(0.5, 0.95, NEAREST)])
    cohort = np.column_stack([cosines, np.sqrt(1 - cosines**2)]).astype(np.float32)
    assert similarity_of_strangers(face, cohort) == pytest.approx(0.725, abs=1e-6)


def test_the_embedded_cohort_is_of_unit_vectors() -> None:
    cohort = dlib_cohort()
    assert cohort.shape[1] == 128
    assert cohort.dtype == np.float32
    assert np.allclose(np.linalg.norm(cohort, axis=1), 1, atol=1e-2)
