"""Writes tiny multi-label data sets in the formats that Mulan, COCO and NUS-WIDE are published in."""

import json

import numpy as np
from PIL import Image

DENSE = r"""@relation 'birds: a cut-down set'

@attribute energy numeric
@attribute 'pitch in Hz' real
@attribute "-" integer
@attribute site {north, 'far south', east}
@attribute 'MacGillivray\'s Warbler' {0, 1}
@attribute Robin {0,1}

@data
0.5,1e3,-1,north,1,0
1.5,2000,2,'far south',0,1
?,-.5,3,east,1,1
2.5,+4,4,'far south',0,0
-1,0,5,north,0,1
"""

SPARSE = """% made for a test
@RELATION sparse

@ATTRIBUTE 000 {0,1}
@ATTRIBUTE / {0,1}
%@ATTRIBUTE commented {0,1}
@ATTRIBUTE motif {YES,NO}
@ATTRIBUTE count NUMERIC
@ATTRIBUTE one {0,1}
@ATTRIBUTE two {0,1}
@DATA
{0 1,3 2.5,4 1}
% between rows
{}
{1 1,2 NO,5 1}
{ 0 1, 1 1, 2 YES, 4 1, 5 1 }
"""


def labels_xml(names):
    """The XML that names the labels, as Mulan writes it."""
    labels = "\n".join(f'<label name="{name}"></label>' for name in names)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<labels xmlns="http://mulan.sourceforge.net/labels">\n{labels}\n</labels>\n'
    )


def write_dense(folder, name, stem=None):
    """A dense set: training and test part are the same five rows, the XML is in reverse order."""
    place, stem = folder / name, stem or name
    place.mkdir(parents=True)
    for part in ("train", "test"):
        (place / f"{stem}-{part}.arff").write_text(DENSE)
    (place / f"{stem}.xml").write_text(labels_xml(["Robin", "MacGillivray's Warbler"]))
    return place


def write_sparse(folder, name):
    """A sparse set of one file, with CRLF at the ends of its lines."""
    place = folder / name
    place.mkdir(parents=True)
    (place / f"{name}.arff").write_bytes(SPARSE.replace("\n", "\r\n").encode())
    (place / f"{name}.xml").write_text(labels_xml(["one", "two"]))
    return place


CATEGORIES = [(90, "toothbrush"), (1, "person"), (13, "stop sign"), (2, "bicycle")]
# (id, image, category, iscrowd, area); none of image 9 and of category 2.
ANNOTATIONS = [
    (1, 42, 1, 0, 2000.5),
    (2, 42, 1, 0, 1024.0),
    (3, 7, 13, 0, 1024.0),
    (4, 7, 90, 0, 100.0),
    (5, 100, 90, 0, 9216.0),
    (900100262145, 100, 1, 1, 50000.0),
    (7, 8, 13, 0, 1023.9),
    (8, 8, 1, 0, 9215.9),
    (9, 524291, 1, 0, 10.0),
]
IMAGE_IDS = (42, 7, 524291, 9, 100, 8)
COLOURS = {image: (image % 251, 10, 200) for image in IMAGE_IDS}


def coco_content(prefix=""):
    """Six images, unsorted, and nine annotations, as ``instances_*.json`` has them."""
    return {
        "info": {"description": "made for a test", "year": 2014},
        "licenses": [{"id": 1, "name": "none", "url": "http://example.org"}],
        "images": [
            {
                "license": 1,
                "file_name": f"{prefix}{image:012d}.jpg",
                "coco_url": "http://example.org",
                "height": 6,
                "width": 8,
                "date_captured": "2013-11-20 02:07:55",
                "id": image,
            }
            for image in IMAGE_IDS
        ],
        "annotations": [
            {
                "segmentation": {"counts": [0, 12, 36], "size": [6, 8]} if crowd else [[0.0, 0.0, 3.0, 0.0, 3.0, 3.0]],
                "area": area,
                "iscrowd": crowd,
                "image_id": image,
                "bbox": [0.0, 0.0, 3.5, 3.25],
                "category_id": category,
                "id": identity,
            }
            for identity, image, category, crowd, area in ANNOTATIONS
        ],
        "categories": [{"supercategory": "any", "id": number, "name": name} for number, name in CATEGORIES],
    }


def paint(path, colour=(1, 2, 3)):
    """An image of one colour, 8 x 6 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), colour, dtype=np.uint8)).save(path, quality=100, subsampling=0)


def write_coco_json(path, content, images):
    """The JSON file, and the images that it lists in the folder ``images``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in content["images"]:
        paint(images / image["file_name"], COLOURS.get(image["id"], (1, 2, 3)))
    return path


def write_coco(root, year, images=""):
    """Training and validation part of a year; ``images`` is a folder between ``root`` and the parts."""
    for part in ("train", "val"):
        prefix = f"COCO_{part}2014_" if year == "2014" else ""
        annotations = root / "annotations" / f"instances_{part}{year}.json"
        write_coco_json(annotations, coco_content(prefix), root / images / f"{part}{year}")
    return root


CONCEPTS = ("airport", "sky", "zebra")
# Image, whether in training, and its concepts; two images have none.
NUS_IMAGES = (
    (r"actor\0001_2124494179.jpg", True, (1, 1, 0)),
    (r"actor\0002_174174086.jpg", False, (0, 1, 0)),
    (r"zoo\0001_11.jpg", True, (0, 0, 0)),
    (r"zoo\0002_12.jpg", True, (0, 0, 1)),
    (r"actor\0003_13.jpg", False, (0, 0, 0)),
    (r"zoo\0003_14.jpg", True, (0, 1, 1)),
    (r"zoo\0004_15.jpg", False, (1, 1, 1)),
    (r"actor\0004_16.jpg", True, (0, 1, 0)),
)
NUS_MISSING = r"zoo\0003_14.jpg"


def write_nus_wide(root):
    """Eight images in two folders, one of which isn't on disk, with the labels of three concepts."""
    for place in ("ConceptsList", "ImageList", "Groundtruth/AllLabels", "Groundtruth/TrainTestLabels"):
        (root / place).mkdir(parents=True)
    (root / "ConceptsList" / "Concepts81.txt").write_text("".join(f"{concept}\n" for concept in CONCEPTS))
    by_part = {
        "": NUS_IMAGES,
        "Train": [image for image in NUS_IMAGES if image[1]],
        "Test": [image for image in NUS_IMAGES if not image[1]],
    }
    for part, images in by_part.items():
        # The training list has CRLF and blank lines at its end.
        ending, tail = ("\r\n", "\r\n\r\n") if part == "Train" else ("\n", "")
        listed = "".join(f"{path}{ending}" for path, _, _ in images) + tail
        (root / "ImageList" / f"{part}Imagelist.txt").write_bytes(listed.encode())
        labels = root / "Groundtruth" / ("TrainTestLabels" if part else "AllLabels")
        for place, concept in enumerate(CONCEPTS):
            lines = "".join(f"{values[place]}\n" for _, _, values in images)
            (labels / f"Labels_{concept}{'_' if part else ''}{part}.txt").write_text(lines)
    for row, (path, _, _) in enumerate(NUS_IMAGES):
        if path != NUS_MISSING:
            paint(root / "Flickr" / path.replace("\\", "/"), (20 * row, 0, 0))
    return root
