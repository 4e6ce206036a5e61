"""UCF101 (Soomro et al., 2012) as published: 13,320 videos in one folder per action, with three official splits.

Classes are numbered from 0 in the order of the official classInd.txt, which numbers from 1. Its order ignores case: in
byte order, "HammerThrow" and "JumpRope" would swap with their neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from robharness import DatasetSpec, MissingResource, Page, UserError, for_shell
from robharness_datasets.imagenet import SUBSET, declares_subset
from robharness_datasets.videos import VideoFile, require_decoder

CLASSES = 101
COUNTS = {"test1": 3783, "test2": 3734, "test3": 3696, "train1": 9537, "train2": 9586, "train3": 9624}
"""Number of videos in each official split."""
PAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
URL = "https://www.crcv.ucf.edu/data/UCF101"


class Ucf101:
    """One split, in the order of the official list.

    folder: contains one folder per action.
    examples: (id, label) pairs, with ids such as "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi".
    """

    def __init__(self, folder: Path, examples: Sequence[tuple[str, int]]) -> None:
        self._folder = folder
        self.ids: Sequence[str] = [id for id, _ in examples]
        self.labels: Sequence[int] = [label for _, label in examples]

    def read(self, index: int) -> VideoFile:
        """Open a video with a decoder of its own, so that threads share none.

        Raises UnreadableExample if the video is broken.
        """
        return VideoFile(self._folder / self.ids[index])


def open_ucf101(root: Path, split: str) -> Ucf101:
    """Open one split from `<root>/ucf101/UCF-101/<action>/*.avi` and `<root>/ucf101/ucfTrainTestlist/*.txt`.

    root: the data root.
    split: "test1", "test2", "test3", "train1", "train2" or "train3".
    Raises MissingResource if the decoder, lists or videos are missing, UserError if a list is not the official one.
    A file named SUBSET in `<root>/ucf101/` declares an intended subset: the split is the listed videos that exist.
    """
    require_decoder("robharness-datasets[video]")
    folder, is_subset = root / "ucf101", (root / "ucf101" / SUBSET).exists()
    lists, videos = folder / "ucfTrainTestlist", folder / "UCF-101"
    numbers = _class_numbers(lists / "classInd.txt", folder)
    list_of_split = lists / f"{split[:-1]}list0{split[-1]}.txt"
    examples = _examples(list_of_split, numbers, folder)
    if not is_subset and len(examples) != COUNTS[split]:
        raise UserError(
            f"{list_of_split} names {len(examples):,} videos, the official list {COUNTS[split]:,}; "
            f"{declares_subset(folder / SUBSET)}. Try: {_lists_command(folder)}"
        )
    existing = _existing_ids(videos, {id.partition("/")[0] for id, _ in examples})
    absent = [id for id, _ in examples if id not in existing]
    if absent and not (is_subset and existing):
        where = f"{videos} ({declares_subset(folder / SUBSET)})" if existing else str(videos)
        reason = "a RAR archive, which few programs unpack"
        raise MissingResource(
            f"{len(absent):,} of the {len(examples):,} videos of UCF101's split {split} (such as {absent[0]})",
            where=where,
            source=Page(url=PAGE, reason=reason, then=_videos_command(folder)),
            place=videos,
        )
    return Ucf101(videos, [(id, label) for id, label in examples if id in existing])


def _class_numbers(file: Path, folder: Path) -> dict[str, int]:
    """Read action -> class number, from 0."""
    lines = [line.split() for line in _lines(file, folder)]
    numbers = {line[1]: int(line[0]) - 1 for line in lines if len(line) == 2 and line[0].isdecimal()}
    if list(numbers.values()) != list(range(CLASSES)) or list(numbers) != sorted(numbers, key=str.lower):
        raise UserError(
            f"{file} does not number {CLASSES} actions from 1, in alphabetical order. Try: {_lists_command(folder)}"
        )
    return numbers


def _examples(file: Path, numbers: dict[str, int], folder: Path) -> list[tuple[str, int]]:
    """Read (id, label) from each line "action/video.avi"; training lists also have the official class number."""
    examples = []
    for number, line in enumerate(_lines(file, folder), 1):
        id, *official = line.split()
        label = numbers.get(id.partition("/")[0])
        if label is None or official not in ([], [str(label + 1)]):
            raise UserError(f"{file}:{number}: '{line}' does not match classInd.txt. Try: {_lists_command(folder)}")
        examples.append((id, label))
    return examples


def _lines(file: Path, folder: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="ascii").splitlines() if line.strip()]
    except FileNotFoundError:
        page = Page(url=PAGE, reason="the server's certificate is often not accepted", then=_lists_command(folder))
        raise MissingResource("the official lists of UCF101", where=str(file), source=page, place=folder) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}). Try: {_lists_command(folder)}") from None


def _existing_ids(videos: Path, actions: set[str]) -> set[str]:
    """Return the ids of all files in these actions' folders. Listing 101 folders is faster than testing 3,783 files."""
    found = set()
    for action in actions:
        if (videos / action).is_dir():
            found |= {f"{action}/{name}" for name in os.listdir(videos / action)}
    return found


def _videos_command(folder: Path) -> str:
    archive, target = for_shell(folder / "UCF101.rar"), for_shell(f"{folder}/")
    return f"curl --create-dirs -fL -o {archive} {URL}/UCF101.rar && unrar x {archive} {target}"


def _lists_command(folder: Path) -> str:
    name = "UCF101TrainTestSplits-RecognitionTask.zip"
    archive = for_shell(folder / name)
    return f"curl --create-dirs -fL -o {archive} {URL}/{name} && unzip -o {archive} -d {for_shell(folder)}"


SPEC = DatasetSpec(
    name="ucf101",
    summary="UCF101, 13,320 videos of 101 actions, with its three official splits",
    labels="ucf-101",
    splits=tuple(COUNTS),
    open=open_ucf101,
    kind="video",
    examples=COUNTS,
    licence="none stated; for research, with a citation",
    paper="https://arxiv.org/abs/1212.0402",
)
