"""Public annotation formats as records: a file per family, a function per format.

Entry point: `formats.import_records`; `formats.FORMATS` lists what there is. An importer is a
function `(annotation files, media folder) -> records`. It yields what is listed, in file order; a
record whose media is not there has an empty `media` and is counted as missing. Records of the same
id become one with the texts of all.
"""
