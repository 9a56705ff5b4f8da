"""MPII Human Pose (Andriluka et al. 2014), in any of the four formats that are in circulation.

Which one a file has is told from its content (:func:`read_mpii`). They tell the same of a person, and the same comes
out of them, to within their rounding:

- the original ``mpii_human_pose_v1_u12_1.mat`` (:mod:`nas.data.readers.mpii_release`),
- the HDF5 of the hourglass code, Newell et al. 2016 (here),
- the JSON of HRNet and mmpose, and the JSON of pytorch-pose (:mod:`nas.data.readers.mpii_json`).

Coordinates. All of them hold MATLAB's, counted from 1. The hourglass layout's joints are those of the others cut to
integers towards zero, and among them x goes down to 1, not 0. A joint at 1 lies on the first pixel, whose centre we
call 0.5, so 0.5 comes off joints and centres, in every format. Upper neck and head top, taken from the head box, are
the only joints that were not integers before (92 % of them); in the hourglass layout half a pixel towards where they
were cut from makes them right on average and twice as near at worst.

Boxes. The hourglass code moves centres down by 15 × scale, then enlarges scales × 1.25; the box is 200 × scale. Its
HDF5 holds the results, the other formats the raw values, which are treated alike.

Head sizes are 0.6 × the head box's diagonal. The two JSON formats have no head box; they
lose nothing by it: :data:`nas.data.readers.mpii_person.HEAD_PER_BOX`.

Missing joints. In the hourglass layout and in pytorch-pose's, a joint is missing where x and y are both 0. This agrees
with the official ``jnt_missing`` on every joint of the 2,958 validation people; 45 labelled joints, outside their
picture, have one coordinate that is 0 or negative. Fields called ``visible`` say whether a joint is occluded, not
whether it is labelled, and are not needed (but HRNet's ``joints_vis`` says whether it is labelled).
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
    """Read MPII people from a file in any format, recognised by its content.

    Args:
        path: the file.
        splits: split → share of the pictures, for a file that does not say who is validated. Only pytorch-pose's does.

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
