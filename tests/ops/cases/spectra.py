"""Cases of Fourier transforms."""

from tests.ops.cases.making import Case, case
from tests.ops.cases.matrices import complexes

CASES: dict[str, list[Case]] = {
    "fftn": [
        case((3, 4), axes=(1,), empty=((0, 4),)),
        case(complexes(3, 4), axes=(0, 1), norm="ortho"),
        case(complexes(2, 5, 3), axes=(-2,), inverse=True),
        case(complexes(2, 5), axes=(1,), inverse=True, norm="forward"),
    ],
    "rfft": [case((3, 4), empty=((0, 4),)), case((5, 2), axis=0, norm="ortho"), case((2, 1)), case((2, 2))],
    "irfft": [
        case(complexes(3, 4), n=6),
        case(complexes(4, 2), n=7, axis=0, norm="ortho"),
        case(complexes(2, 1), n=1),
        case(complexes(2, 2), n=2, norm="forward"),
        case(complexes(2, 2), n=3),
        case((3, 4), n=6),
    ],
}
