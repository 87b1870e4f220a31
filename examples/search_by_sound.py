"""Find moments in a folder of recordings that sound like a sound of yours.

    python examples/search_by_sound.py FOLDER SOUND [MODEL]

The library is kept beside the folder; the next search indexes only what is new.
"""

import sys

import valor


def main(folder: str, sound: str, model: str = "laion/clap-htsat-unfused") -> list[str]:
    """Print the best five moments, and return them as `path@second`."""
    library = valor.Library(f"{folder.rstrip('/')}.library", model=model)
    report = library.add(folder)
    for bad in report.bad:
        print(f"left out {bad.path}: {bad.detail}")
    moments = []
    for hit in library.search(sound, by="audio", using="audio", limit=5):
        moments.append(f"{hit.path}@{hit.moment_s:.1f}")
        print(f"{hit.score:.2f}  {moments[-1]}")
    return moments


if __name__ == "__main__":
    main(*sys.argv[1:])
