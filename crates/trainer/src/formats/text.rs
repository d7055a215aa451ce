//! Lines of text as programs on all systems write them.

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a text with their numbers, from 1. They may end in LF, CR LF or CR; a byte-order mark is none of the text.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let lines = text.split(|&byte| byte == b'\n');
    lines.flat_map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|&byte| byte == b'\r')).zip(1usize..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ends_of_lines_are_ends() {
        for text in ["a\nb\n\nc", "a\r\nb\r\n\r\nc", "a\rb\r\rc", "\u{feff}a\nb\r\n\rc"] {
            let lines: Vec<_> = lines(text.as_bytes()).filter(|(line, _)| !line.is_empty()).collect();
            assert_eq!(lines, [(&b"a"[..], 1), (b"b", 2), (b"c", 4)], "{text:?}");
        }
    }
}
