//! What a file is that should be another.

/// Beginnings of files that are often found under the name of another.
const BEGINNINGS: [(&[u8], &str); 12] = [
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML text"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "a bzip2 file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"\xff\xfe", "UTF-16 text, which must be UTF-8"),
    (b"\xfe\xff", "UTF-16 text, which must be UTF-8"),
];

/// What bytes are by their beginning, if that is known and none of our formats.
pub fn recognize(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |bytes: &[u8], beginning: &[u8]| {
        bytes.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
    };
    let found = BEGINNINGS.iter().find(|(beginning, _)| begins(bytes, beginning) || begins(text, beginning));
    found.map(|&(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_beginning() {
        for (bytes, what) in [
            (&b"\n <!DOCTYPE HTML><head>"[..], Some("an HTML page")),
            (b"\xef\xbb\xbf<HTML>", Some("an HTML page")),
            (b"PK\x03\x04", Some("a zip archive")),
            (b"PK", None),
            (b"%%MatrixMarket", None),
            (b"\0\0\x08\x03", None),
            (b"", None),
        ] {
            assert_eq!(recognize(bytes), what);
        }
    }
}
