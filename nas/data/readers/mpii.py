"""MPII Human Pose (Andriluka et al. 2014), in any of the four formats that are in circulation.

The format is recognised from the content (:func:`read_mpii`). All formats describe the same people and give the same
result, up to rounding:

- the original ``mpii_human_pose_v1_u12_1.mat`` (:mod:`nas.data.readers.mpii_release`),
- the HDF5 of the hourglass code, Newell et al. 2016 (:mod:`nas.data.readers.mpii_hdf5`),
- the JSON of HRNet and mmpose, and the JSON of pytorch-pose (:mod:`nas.data.readers.mpii_json`).

Coordinates. All formats hold MATLAB's, counted from 1. The hourglass layout's joints are those of the others truncated
to integers towards zero, and their smallest x is 1, not 0. A joint at 1 lies on the first pixel, whose centre is at 0.5
here, so 0.5 is subtracted from joints and centres in every format. Upper neck and head top, derived from the head box,
are the only joints that were not integers before (92 % of them); in the hourglass layout, adding back half a pixel
makes them unbiased and halves the largest error.

Boxes. The hourglass code moves centres down by 15 × scale, then multiplies scales by 1.25; the box is 200 × scale. Its
HDF5 holds the results, the other formats the raw values, which are converted in the same way.

Head sizes are 0.6 × the head box's diagonal. The two JSON formats have no head boxes, but lose nothing; see
:data:`nas.data.readers.mpii_person.HEAD_PER_BOX`.

Missing joints. In the hourglass layout and in pytorch-pose's, a joint is missing if x and y are both 0. This agrees
with the official ``jnt_missing`` on every joint of the 2,958 validation people; 45 labelled joints, outside their
image, have one coordinate that is 0 or negative. Fields called ``visible`` say whether a joint is occluded, not whether
it is labelled, and are not used (but HRNet's ``joints_vis`` says whether it is labelled).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas.data.readers.mpii_hdf5 import read_mpii_hourglass_h5
from nas.data.readers.mpii_json import read_mpii_json
from nas.data.readers.mpii_release import read_mpii_release
from nas.data.readers.parsing import file_format
from nas.data.readers.splits import Annotations

_REMEDY = "give mpii_human_pose_v1_u12_1.mat, or MPII annotations of the hourglass code, HRNet or pytorch-pose"


def read_mpii(path: Path, splits: Mapping[str, float]) -> Annotations:
    """Read MPII people from a file in any format, recognised from its content.

    Args:
        path: the file.
        splits: split → share of the images, for a file that does not define the validation people. Only pytorch-pose's
            does.

    Raises:
        UserError: the file is missing, damaged or in none of the formats.
    """
    kind = file_format(path, _REMEDY)
    if kind == "MATLAB":
        people, dropped = read_mpii_release(path, splits)
        return Annotations(people, dropped, "the original MPII release", defines_validation=False)
    if kind == "HDF5":
        people, dropped = read_mpii_hourglass_h5(path, splits)
        return Annotations(people, dropped, "the hourglass code's HDF5", defines_validation=False)
    return read_mpii_json(path, splits)
