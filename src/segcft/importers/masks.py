"""Masks of lungs and heart for radiographs that come without: from a folder, a trained run, or a public network.

A :class:`Segmenter` reads images and answers coverage; :func:`to_flags` makes it the bit flags of a mask file, and
:class:`Plausibility` says which masks cannot be right. :class:`Masking` does all of it to the samples of a conversion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segcft.data.resize import pad_to_aspect, smooth
from segcft.errors import Code, DataError
from segcft.importers.convert import Finish
from segcft.importers.converted import Converted
from segcft.importers.fit import fit_values
from segcft.io.imagefile import LOSSLESS, find_file
from segcft.io.maskfile import read_labels
from segcft.io.reject import Excluded, Rejected

if TYPE_CHECKING:
    import torch

BITS: Mapping[str, int] = {"left_lung": 1, "right_lung": 2, "heart": 4}
"""Structures and their flags. Left is the patient's left, which is on the right of the image."""

Coverage = NDArray[np.float64]


class Segmenter(Protocol):
    """Reads the structures of :data:`BITS` from images.

    Attributes:
        size: (H, W) of the images that it wants, of the aspect ratio of the study.
        parallel: it may be called by several threads at once, and gains nothing from batches.
        settings: what its answers depend on, in JSON's types.
    """

    @property
    def size(self) -> tuple[int, ...]: ...

    @property
    def parallel(self) -> bool: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def __call__(self, ids: Sequence[str], images: NDArray[np.uint8]) -> Sequence[Coverage | Rejected]:
        """Coverage in [0, 1] of the structures, (3, h, w) at any resolution of the same frame, of each image.

        Args:
            ids: of the images.
            images: uint8 (B, *size).
        """
        ...

    def stamp(self, id: str) -> str | None:
        """Changes when the mask of ``id`` does, beyond what ``settings`` say; None: it does not."""
        ...


class FolderMasks:
    """Ready-made masks: ``ID.png`` (or another lossless format) in ``folder``, with the flags of :data:`BITS`.

    A mask has the aspect ratio of its original image, of any resolution, or is of the padded frame already.

    Args:
        folder: of the masks.
        size: (H, W) of the masks that it answers.

    Raises:
        DataError: there is no such folder.
    """

    parallel = True

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        if not folder.is_dir():
            raise DataError(Code.MISSING, folder, "no such folder (--masks)")
        self.folder, self.size = folder, size
        self.settings = {"masks": "ready-made"}  # wherever they are; which ones, stamps say

    def __call__(self, ids: Sequence[str], images: NDArray[np.uint8]) -> list[Coverage | Rejected]:
        return [self._read(id) for id in ids]

    def stamp(self, id: str) -> str:
        """A digest of the mask's file, since copying a folder may change times; "" where there is none to be read."""
        try:
            return hashlib.sha256(find_file(self.folder, id, LOSSLESS).read_bytes()).hexdigest()[:16]
        except (Rejected, OSError):
            return ""

    def _read(self, id: str) -> Coverage | Rejected:
        try:
            flags = read_labels(find_file(self.folder, id, LOSSLESS))
        except Rejected as reason:
            return reason
        canvas = pad_to_aspect(flags[None], self.size[1] / self.size[0], 0)[0]
        return fit_values(canvas, self.size, lambda part: np.stack([part & bit != 0 for bit in BITS.values()]))


class PSPNet:
    """The PSPNet of torchxrayvision, trained on ChestX-Det (Lian et al. 2021); its weights are downloaded once.

    Args:
        device: where it computes.

    Raises:
        DataError: torchxrayvision is not installed or does not work here, or its weights cannot be had.
    """

    parallel = False
    size = (512, 512)
    targets: Mapping[str, str] = {"left_lung": "Left Lung", "right_lung": "Right Lung", "heart": "Heart"}

    def __init__(self, device: torch.device | str) -> None:
        package, remedy = "torchxrayvision", "or give your own masks (--masks DIR) or a trained run (--segmentor RUN)"
        try:
            import torchxrayvision
        except ModuleNotFoundError as error:
            why = f"masks by its PSPNet need {error.name}: pip install 'segcft[padchest]', {remedy}"
            raise DataError(Code.NOT_INSTALLED, package, why) from None
        except Exception as error:  # a torchvision that does not fit torch fails in ways of its own
            why = f"cannot be imported ({error}): install a torchvision that fits torch, {remedy}"
            raise DataError(Code.FAILED, package, why) from None
        try:
            self.network = torchxrayvision.baseline_models.chestx_det.PSPNet().to(device).eval()
        except Exception as error:  # no network, a full disk, a damaged file
            why = f"the weights of its PSPNet cannot be loaded ({error}); {remedy}"
            raise DataError(Code.FAILED, package, why) from None
        self.device = device
        self.normalize = torchxrayvision.utils.normalize
        known = list(self.network.targets)
        self.order = [known.index(self.targets[name]) for name in BITS]
        self.settings = {"pspnet": torchxrayvision.__version__}

    def __call__(self, ids: Sequence[str], images: NDArray[np.uint8]) -> list[Coverage | Rejected]:
        import torch

        scaled = self.normalize(images, maxval=255)[:, None]  # float32 in [-1024, 1024], as it was trained on
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(scaled).to(self.device))[:, self.order]
            probabilities = torch.sigmoid(logits.float()).cpu().numpy()
        return [largest_parts(one) for one in probabilities]

    def stamp(self, id: str) -> None:
        return None


def largest_parts(probabilities: NDArray[np.floating]) -> Coverage:
    """Probabilities (S, h, w), each structure left with its largest connected part above one half only."""
    from scipy import ndimage

    cleaned = np.zeros(probabilities.shape)
    for probability, clean in zip(probabilities, cleaned, strict=True):
        labels, count = ndimage.label(probability >= 0.5)
        if count:
            largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1
            # What is below one half beside the part stays: it says where within a pixel the outline is.
            near = ndimage.binary_dilation(labels == largest) & ((labels == largest) | (labels == 0))
            clean[near] = probability[near]
    return cleaned


def to_flags(coverage: Coverage, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Coverage (3, h, w) in [0, 1] as the bit flags of :data:`BITS`, uint8 of ``size``: a pixel that is at least half
    covered is inside."""
    inside = smooth(coverage, size) >= 0.5
    flags = np.zeros(size, dtype=np.uint8)
    for bit, mask in zip(BITS.values(), inside, strict=True):
        flags |= np.uint8(bit) * mask.astype(np.uint8)
    return flags


def areas(flags: NDArray[np.uint8]) -> dict[str, int]:
    """Structure -> its area in a mask, in pixels."""
    return {name: int(np.count_nonzero(flags & bit)) for name, bit in BITS.items()}


@dataclass(frozen=True)
class Plausibility:
    """What masks of a frontal radiograph can look like.

    The defaults are wide: among 200 radiographs that readers outlined (JSRT) lungs cover 7 to 25 % of the frame,
    hearts 6 to 13 %, the left lung has 0.54 to 1.1 times the right one's area, and lungs never overlap.

    Attributes:
        lung: least and largest share of the frame that a lung covers.
        heart: the same of the heart.
        lung_ratio: least and largest area of the left lung divided by that of the right one.
        overlap: largest share of the smaller lung that both lungs cover.
    """

    lung: tuple[float, float] = (0.02, 0.4)
    heart: tuple[float, float] = (0.01, 0.3)
    lung_ratio: tuple[float, float] = (0.2, 5.0)
    overlap: float = 0.1

    KIND = "implausible mask"

    def check(self, flags: NDArray[np.uint8]) -> None:
        """Check a mask of bit flags (H, W).

        Raises:
            Excluded: it cannot be right, and why.
        """
        for name, area in areas(flags).items():
            low, high = self.heart if name == "heart" else self.lung
            share = area / flags.size
            if area == 0:
                raise Excluded(self.KIND, f"the mask of {name} is empty")
            if not low <= share <= high:
                raise Excluded(self.KIND, f"{name} covers {share:.1%} of the image")
        left, right, heart = (flags & bit != 0 for bit in BITS.values())
        ratio = left.sum() / right.sum()
        if not self.lung_ratio[0] <= ratio <= self.lung_ratio[1]:
            raise Excluded(self.KIND, f"the left lung has {ratio:.2g} times the area of the right one")
        overlap = (left & right).sum() / min(left.sum(), right.sum())
        if overlap > self.overlap:
            raise Excluded(self.KIND, f"the lungs overlap by {overlap:.0%} of the smaller one")
        (left_y, left_x), (right_y, right_x), (heart_y, heart_x) = (_centre(mask) for mask in (left, right, heart))
        if not right_x < left_x:
            raise Excluded(self.KIND, "the left lung is not to the right of the right one: mirrored or mislabelled")
        if not right_x < heart_x < left_x:
            raise Excluded(self.KIND, "the heart is not between the lungs")
        if not heart_y > (left_y + right_y) / 2:
            raise Excluded(self.KIND, "the heart is above the middle of the lungs: upside down or mislabelled")


def _centre(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Row and column of a mask's centre of mass."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def check_polarity(image: NDArray[np.uint8], flags: NDArray[np.uint8]) -> None:
    """Check that air is dark, as in MONOCHROME2: the lungs are darker than the heart.

    On 200 radiographs (JSRT) the differences of medians are 0.14 to 0.40 of the grey scale; inversion changes their
    sign. Without a mask nobody knows where to look: what lies beside the middle of the frame is lung in one film, and
    shoulder or the film's border in another.

    Args:
        image: grey values, uint8 (H, W), of a chest.
        flags: its mask of bit flags, uint8 (H, W).

    Raises:
        Excluded: the image looks like a negative.
    """
    lungs, heart = (flags & (BITS["left_lung"] | BITS["right_lung"])) != 0, (flags & BITS["heart"]) != 0
    alone = heart & ~lungs if (heart & ~lungs).any() else heart
    aerated = lungs & ~heart if (lungs & ~heart).any() else lungs
    if np.median(image[alone]) < np.median(image[aerated]):
        raise Excluded("inverted grey values", "the heart is darker than the lungs: a negative")


@dataclass(frozen=True)
class Masking:
    """Gives the samples of a conversion their masks and areas, or leaves them out.

    Attributes:
        segmenter: gives the masks.
        size: (H, W) of the converted images, in pixels.
        plausibility: which masks to believe.

    Raises:
        DataError: images of ``size`` have another shape than the segmenter's.
    """

    segmenter: Segmenter
    size: tuple[int, int]
    plausibility: Plausibility

    def __post_init__(self) -> None:
        (height, width), wanted = self.size, self.segmenter.size
        if abs(width / height - wanted[1] / wanted[0]) > 1e-6:
            why = f"{height}x{width} (height x width) is another shape than the segmenter's {wanted[0]}x{wanted[1]}"
            raise DataError(Code.CONFLICT, "--size", why)

    @property
    def settings(self) -> dict[str, Any]:
        """What the masks depend on, in JSON's types."""
        return {"plausibility": asdict(self.plausibility), "masks": self.segmenter.settings}

    @property
    def finish(self) -> Finish | None:
        """What :func:`~segcft.importers.convert.convert` has to do with what :meth:`begin` answers."""
        return None if self.segmenter.parallel else self

    def begin(self, sample: Converted) -> Converted | Rejected:
        """A sample that was just read, with its mask, or to be finished in a batch where that is faster."""
        return self([sample])[0] if self.segmenter.parallel else sample

    def __call__(self, samples: Sequence[Converted]) -> list[Converted | Rejected]:
        """Samples, which have a ``large`` image of the segmenter's size, with their masks; or why not, one for one."""
        images = np.stack([sample.large for sample in samples if sample.large is not None])
        found = self.segmenter([sample.id for sample in samples], images)
        return [self._with_mask(sample, coverage) for sample, coverage in zip(samples, found, strict=True)]

    def _with_mask(self, sample: Converted, coverage: Coverage | Rejected) -> Converted | Rejected:
        if isinstance(coverage, Rejected):
            return coverage
        assert isinstance(sample.image, np.ndarray), "segmenters read images"
        try:
            mask = to_flags(coverage, self.size)
            self.plausibility.check(mask)
            check_polarity(sample.image, mask)
        except Rejected as reason:
            return reason
        measured = {f"{name}_area": area for name, area in areas(mask).items()}
        return replace(sample, mask=mask, attributes={**sample.attributes, **measured}, large=None)
