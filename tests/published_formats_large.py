"""ImageNet, WebVision and Clothing1M with a few tiny images, in their published layouts."""

import io
import tarfile

import numpy as np
from PIL import Image
from scipy.io import savemat

from catchment.data.imagenet import FIRST_50

WNIDS = ("n01440764", "n01443537", "n02012849")


def photo(color, size=(40, 30), mode="RGB"):
    """An image of one colour with a gradient, so that JPEG has something to do."""
    pixels = np.full((size[1], size[0], 3), color, dtype=np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, size[0]).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(path, image, form="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format=form)


def write_imagenet(folder, *, wnids=WNIDS, flat=False, numbered=False, devkit=True):
    """``imagenet/`` with two images a class and part; one gray, one CMYK, one a PNG inside."""
    root = folder / "imagenet"
    for label, wnid in enumerate(wnids):
        save(root / "train" / wnid / f"{wnid}_10.JPEG", photo(label, mode="L" if label == 0 else "RGB"))
        inside = "PNG" if label == 1 else "JPEG"
        mode = "CMYK" if label == 2 else "RGB"
        save(root / "train" / wnid / f"{wnid}_2.JPEG", photo(label, mode=mode), inside)
    order = [2, 0, 1, 0, 2, 1]  # the classes of the flat validation images
    if flat:
        for number, label in enumerate(order, 1):
            save(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", photo(5 * label))
    else:
        for label, wnid in enumerate(wnids):
            for number in range(2):
                place = str(label) if numbered else wnid
                save(root / "val" / place / f"ILSVRC2012_val_{2 * label + number:08d}.JPEG", photo(5 * label))
    if devkit:
        write_devkit(root, order)
    return root


def write_devkit(root, order):
    """``meta.mat`` with three classes, in an order of their own, and a group; and the ground truth."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    number_of = {0: 3, 1: 1, 2: 2}  # label -> ILSVRC2012_ID
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number_of[k]}\n" for k in order))
    rows = [
        (1, WNIDS[1], "goldfish, Carassius auratus", 0),
        (2, WNIDS[2], "crane", 0),
        (3, WNIDS[0], "tench, Tinca tinca", 0),
        (4, "n00000004", "fish", 2),
    ]
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.empty((len(rows), 1), dtype=[(field, object) for field in fields])
    for position, (number, wnid, words, children) in enumerate(rows):
        of = np.array([1, 3], dtype=np.float64) if children else np.empty(0)
        synsets[position, 0] = (float(number), wnid, words, "a gloss", float(children), of, 0.0, 1300.0)
    savemat(data / "meta.mat", {"synsets": synsets})


def tar_of(members):
    """A tar archive as bytes. Members: name -> bytes, or a TarInfo for links and the like."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


TRAIN_LIST = """\
google/q0001/a.jpg 0
google/q0001/b.jpg 1
google/q0002/c.jpg 49
google/q0002/d.jpg 50
google/q0003/e.jpg 0
google/q0003/f.jpg 1
google/q0003/g.jpg 0
google/q0001/h.jpg 49
"""
VALIDATION_LIST = "val000001.jpg 49\nval000002.jpg 50\nval000003.jpg 0\nval000004.jpg 1\n"
FLICKR_LIST = "flickr/q0001/i.jpg 51\n"


def write_webvision(folder, *, name="webvision", google="google"):
    """Three queries, eight images in a list that is not sorted, 52 synsets."""
    root = folder / name
    info = root / "info"
    info.mkdir(parents=True)
    synsets = [*FIRST_50.items(), ("n02012849", "crane"), ("n03126707", "crane")]
    (info / "synsets.txt").write_text("".join(f"{wnid} {names}, another name\n" for wnid, names in synsets))
    (info / "train_filelist_google.txt").write_text(TRAIN_LIST)
    (info / "train_filelist_flickr.txt").write_text(FLICKR_LIST)
    (info / "val_filelist.txt").write_text(VALIDATION_LIST)
    for line in (TRAIN_LIST + FLICKR_LIST).splitlines():
        path = line.split()[0]
        save(root / path.replace("google/", f"{google}/"), photo(9))
    for line in VALIDATION_LIST.splitlines():
        save(root / "val_images_256" / line.split()[0], photo(9))
    return root


# path -> noisy label, clean label
CLOTHING = {
    "images/0/00/100,1.jpg": (0, None),
    "images/0/00/101,1.jpg": (13, None),
    "images/0/01/102,2.jpg": (5, None),
    "images/0/01/103,2.jpg": (5, None),
    "images/0/02/104,3.jpg": (1, 2),
    "images/0/02/105,3.jpg": (None, 3),
    "images/1/00/106,4.jpg": (None, 4),
    "images/1/01/107,4.jpg": (None, 5),
    "images/1/01/108,5.jpg": (None, 6),
    "images/1/02/109,5.jpg": (7, 8),
    "images/1/03/110,6.jpg": (None, 9),
    "images/1/03/111,6.jpg": (None, 0),
}
CLOTHING_PARTS = {"noisy_train": slice(0, 4), "clean_train": slice(4, 8), "clean_val": slice(8, 9)}
CLOTHING_PARTS["clean_test"] = slice(9, 12)


def write_clothing1m(folder, *, name="clothing1M", images="images/", annotations=False):
    """Twelve images, two of them with both labels."""
    from catchment.data.clothing1m import CLASSES

    root = folder / name
    lists = root / "annotations" if annotations else root
    lists.mkdir(parents=True)
    (lists / "category_names_eng.txt").write_text("".join(f"{one}\n" for one in CLASSES))
    for column, kind in enumerate(("noisy", "clean")):
        known = [(path, labels[column]) for path, labels in CLOTHING.items() if labels[column] is not None]
        (lists / f"{kind}_label_kv.txt").write_text("".join(f"{path} {label}\n" for path, label in known))
    for part, rows in CLOTHING_PARTS.items():
        (lists / f"{part}_key_list.txt").write_text("".join(f"{path}\n" for path in list(CLOTHING)[rows]))
    for path in CLOTHING:
        save(root / path.replace("images/", images), photo(9))
    return root
