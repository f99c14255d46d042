"""Small image data sets in the exact formats that their authors publish, for the tests of their readers."""

import bz2
import gzip
import pickle
import struct
import zipfile

import numpy as np
from PIL import Image
from scipy.io import savemat

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_idx(path, values):
    """uint8 values, after two zero bytes, a type byte, the number of dimensions and their sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + b"".join(struct.pack(">I", size) for size in values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, *, ending="", train=10, test=10, labels=None):
    """Four IDX files; image k has the value k but for a bright pixel in row 3, column 17."""
    for part, count in (("train", train), ("t10k", test)):
        images = np.repeat(np.arange(count) % 200, 28 * 28).reshape(count, 28, 28).astype(np.uint8)
        images[:, 3, 17] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", images)
        given = np.arange(count) % 10 if labels is None else labels[part]
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", given)


def python2_pickle(content):
    """Protocol 2 as Python 2 wrote it: text is bytes without an encoding, arrays hold their numbers as such text."""

    def text(value):
        value = value if isinstance(value, bytes) else value.encode("latin1")
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    def item(value):
        if isinstance(value, int):
            return number(value)
        if isinstance(value, (str, bytes)):
            return text(value)
        if isinstance(value, list):
            return b"](" + b"".join(item(each) for each in value) + b"e"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        kind = b"cnumpy\ndtype\n(" + text(value.dtype.str[1:]) + b"K\x00K\x01tR"
        kind += b"(K\x03" + text(value.dtype.str[0]) + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
        shape = b"(" + b"".join(number(size) for size in value.shape) + b"t"
        return made + b"(K\x01" + shape + kind + b"\x89" + text(value.tobytes()) + b"tb"

    return b"\x80\x02}(" + b"".join(item(key) + item(value) for key, value in content.items()) + b"u."


def pickled(content, style):
    """A dictionary as "python2" published it, or written anew under protocol 2 with "str" or "bytes" keys."""
    if style == "python2":
        return python2_pickle(content)
    if style == "bytes":
        content = {key.encode(): value for key, value in content.items()}
    return pickle.dumps(content, protocol=2)


def cifar_rows(count, start=0):
    """Rows of planes: red = the image's number, green = its row of pixels, blue = 100 + its column."""
    images = np.empty((count, 3, 32, 32), dtype=np.uint8)
    images[:, 0] = (start + np.arange(count))[:, None, None]
    images[:, 1] = np.arange(32)[:, None]
    images[:, 2] = 100 + np.arange(32)
    return images.reshape(count, 3072)


def write_cifar10(root, *, per_batch=4, test=4, style="python2"):
    """The eight files; labels count up, modulo 10, through the training batches, and from 0 in the test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    files = [(f"data_batch_{n}", f"training batch {n} of 5", (n - 1) * per_batch, per_batch) for n in range(1, 6)]
    files.append(("test_batch", "testing batch 1 of 1", 0, test))
    for name, title, start, count in files:
        batch = {
            "batch_label": title,
            "labels": [row % 10 for row in range(start, start + count)],
            "data": cifar_rows(count, start),
            "filenames": [f"image_s_{row:06}.png" for row in range(start, start + count)],
        }
        (folder / name).write_bytes(pickled(batch, style))
    meta = {"num_cases_per_batch": per_batch, "label_names": list(CIFAR10_NAMES), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickled(meta, style))
    (folder / "readme.html").write_text("<html></html>")
    return folder


CIFAR100_FINE = (4, 30, 1, 32, 4, 30, 1, 32)
CIFAR100_COARSE = (0, 0, 1, 1, 0, 0, 1, 1)


def write_cifar100(root, *, style="python2"):
    """Eight training and four test images of four fine classes of two coarse ones; a stray file, as published."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 8), ("test", 4)):
        batch = {
            "filenames": [f"image_s_{row:06}.png" for row in range(count)],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": list(CIFAR100_FINE[:count]),
            "coarse_labels": list(CIFAR100_COARSE[:count]),
            "data": cifar_rows(count),
        }
        (folder / name).write_bytes(pickled(batch, style))
    fine = [f"fine_{number:02}" for number in range(100)]
    coarse = [f"coarse_{number:02}" for number in range(20)]
    (folder / "meta").write_bytes(pickled({"fine_label_names": fine, "coarse_label_names": coarse}, style))
    (folder / "file.txt~").write_text("stray")
    return folder


def write_torch_pickle(path, content):
    """A ``.pt`` archive of one pickle of numpy arrays, as torch.save makes of a dictionary of arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr(f"{path.stem}/version", "3\n")


def write_cifar10n(root, clean, **changed):
    """Human labels for CIFAR-10's training part; each key of ``changed`` replaces that array."""
    clean = np.asarray(clean, dtype=np.int64)
    wrong = np.where(np.arange(len(clean)) < 2, (clean + 1) % 10, clean)
    content = {
        "clean_label": clean,
        "aggre_label": clean,
        "worse_label": wrong,
        "random_label1": wrong[:],
        "random_label2": clean,
        "random_label3": (clean + 2) % 10,
    }
    write_torch_pickle(root / "CIFAR-N" / "CIFAR-10_human.pt", content | changed)


def write_cifar100n(root):
    """Human labels for the eight images of :func:`write_cifar100`: fine ones as arrays, coarse ones as lists."""
    fine, coarse = np.array(CIFAR100_FINE), np.array(CIFAR100_COARSE)
    noisy_fine, noisy_coarse = fine.copy(), coarse.copy()
    noisy_fine[[0, 5]], noisy_coarse[5] = (55, 99), 13
    content = {
        "clean_label": fine,
        "noisy_label": noisy_fine,
        "clean_coarse_label": coarse.tolist(),
        "noisy_coarse_label": noisy_coarse.tolist(),
    }
    write_torch_pickle(root / "CIFAR-N" / "CIFAR-100_human.pt", content)


def cifar10h_counts(labels):
    """Counts of answers (int64): 48 for the label, 1 for each of two other classes, and one more in every other row."""
    counts = np.zeros((len(labels), 10), dtype=np.int64)
    rows = np.arange(len(labels))
    counts[rows, labels] = 48 + rows % 2
    counts[rows, (np.asarray(labels) + 3) % 10] = 1
    counts[rows, (np.asarray(labels) + 5) % 10] = 1
    return counts


def write_svhn(folder, *, labels=(10, 1, 2, 9, 10, 3)):
    """Two MATLAB 5 files: X (32, 32, 3, N), y (N, 1); image k is k but for row 3, column 17 of blue, 200 + k."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train_32x32.mat", "test_32x32.mat"):
        images = np.empty((32, 32, 3, len(labels)), dtype=np.uint8)
        images[...] = np.arange(len(labels))
        images[3, 17, 2] = 200 + np.arange(len(labels))
        savemat(folder / name, {"X": images, "y": np.array(labels, np.uint8)[:, None]}, do_compression=True)


def write_usps_text(folder, lines=None):
    """Five lines in usps.bz2, four in usps.t.bz2: labels 1, 2, ...; pixel 20 has 1, pixel 21 is left out, others -1."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("usps.bz2", 5), ("usps.t.bz2", 4)):
        values = " ".join(f"{i}:{1 if i == 20 else -1}" for i in range(1, 257) if i != 21)
        text = "".join(f"{row + 1} {values} \n" for row in range(count)) if lines is None else lines
        (folder / name).write_bytes(bz2.compress(text.encode()))


def write_cifar_c(folder, labels, corruption="fog"):
    """Constant images of 10 x severity + number, severity by severity; the labels five times."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(labels)
    values = np.array([10 * severity + row for severity in range(1, 6) for row in range(count)], dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (5 * count, 32, 32, 3))
    np.save(folder / f"{corruption}.npy", np.ascontiguousarray(images))
    np.save(folder / "labels.npy", np.tile(np.asarray(labels, dtype=np.uint8), 5))


def write_mnist_c(folder, corruptions=("identity", "stripe", "fog"), count=6):
    """Arrays with a trailing axis: training image k of corruption c is 10 c + k, test image k is 100 + 10 c + k."""
    for number, corruption in enumerate(corruptions):
        (folder / corruption).mkdir(parents=True)
        for part, start in (("train", 0), ("test", 100)):
            images = np.empty((count, 28, 28, 1), dtype=np.uint8)
            images[...] = (start + 10 * number + np.arange(count))[:, None, None, None]
            np.save(folder / corruption / f"{part}_images.npy", images)
            np.save(folder / corruption / f"{part}_labels.npy", np.arange(count, dtype=np.int64))


TINY_WNIDS = ("n03", "n01", "n04", "n02")


def write_jpeg(path, value, size=(64, 64)):
    """An image of one grey value (an int) or one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", size, value).save(path, format="JPEG", quality=95)


def write_tiny_imagenet(root):
    """Four classes, listed out of order, with three training and one validation image each; one image is grey."""
    folder = root / "tiny-imagenet-200"
    folder.mkdir(parents=True)
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in TINY_WNIDS))
    words = {"n01": "goldfish, Carassius auratus", "n02": "crane", "n03": "crane, lifting device", "n09": "unused"}
    (folder / "words.txt").write_text("".join(f"{wnid}\t{names}\n" for wnid, names in words.items()))
    lines = []
    for number, wnid in enumerate(TINY_WNIDS):
        for k in range(3):
            value = 77 if (wnid, k) == ("n01", 0) else (40 * number, 20 * k, 200)
            write_jpeg(folder / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", value)
        boxes = "".join(f"{wnid}_{k}.JPEG\t0\t10\t63\t58\n" for k in range(3))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
        write_jpeg(folder / "val" / "images" / f"val_{number}.JPEG", (0, 0, 40 * number))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    for k in range(2):
        write_jpeg(folder / "test" / "images" / f"test_{k}.JPEG", 0)
    return folder


def write_tiny_imagenet_c(root):
    """Two corruptions x five severities x four classes x two images."""
    for corruption in ("fog", "gaussian_noise"):
        for severity in range(1, 6):
            for wnid in TINY_WNIDS:
                for k in range(2):
                    path = root / "Tiny-ImageNet-C" / corruption / str(severity) / wnid / f"test_{k}.JPEG"
                    write_jpeg(path, (50 * severity, 100 * k, 0))
