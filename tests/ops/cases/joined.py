"""Cases of the operators that are several others in one."""

import shoal.ops.joined
from tests.ops.cases.making import Case, case

assert shoal.ops.joined  # imported for the operators that it registers

IMG = (2, 4, 6, 5)

CASES: dict[str, list[Case]] = {
    "batch_norm_relu": [
        case(IMG, (4,), (4,)),
        case(IMG, (4,), (4,), IMG),
        case((2, 5, 3), (3,), (3,), (2, 5, 3), axis=-1, eps=1e-2),
    ],
    "convolution_relu": [
        case((2, 3, 5, 4), (4, 3, 3, 2), (4,), empty=((0, 3, 5, 4), (4, 3, 3, 2), (4,))),
        case(IMG, (6, 2, 3, 3), (6,), stride=(2, 1), pad=1, num_group=2),
        case(IMG, (3, 4, 2, 2), None, dilate=(2, 1), pad=(0, 1)),
    ],
}
