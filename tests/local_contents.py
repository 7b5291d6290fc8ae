"""Hashes of the local data that stored studies read."""

# A record names a file or folder and the beginning of its hash.
CONTENTS = {
    "wikitext-2": "34b28a6fb83ef2f4222c34901df3ead1ae314aac5a27f66e14d9957802f3aa74",
    "sst2": "8ea9b0370586a06cd09158bec211f6a1017dec7f57f33763b83bdac72bccbe88",
    "glue_stsb": "3c6951096e638e341099495bf245c7df4b985a199ce2c9576e8098d4dbb61cdf",
    "glue_mrpc": "1e0a4ac6de9e7db726eb5a012ae6cd17795159503bd9539759ce878a1ef9463d",
    "glue_rte": "1b1ebaf9971ec8a770f9f71467195f8cee0bcbe20770595ead48135af53e572d",
    "glue_cola": "d81d982abfd2bf487fee6b05916d1542852f5ae556b3817c19d1f7621129a873",
    "squad_extra": "d1a6ac65426e3da394f15899f23965e73e8697bc689f23158c17e913dec10ed1",
    "squaddev_v1.1.json": "45089eff3cf52004b1dca6814cde5c57082fdb09872f18c79a5d944d45be523a",
    "c4_calibration.txt": "83947f0c602b84c0d8984278c658544fb7de41969b55237537a6dfcd1c0986db",
    "c4_evaluated.txt": "05a73f75f7b48b19b474cf7ebd22b33ec3c79ab1a03082fd941f93e0287f62c1",
    "wikitext2_test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "wikitext2_validation.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
}


def content_of(path):
    """The hash in place of a path in a record; records before the hash have the path alone."""
    name, at, beginning = path.rpartition("/")[2].partition("@")
    if not at:
        return f"sha256:{CONTENTS[name]}"
    (content,) = {full for full in CONTENTS.values() if full.startswith(beginning)}
    return f"sha256:{content}"
