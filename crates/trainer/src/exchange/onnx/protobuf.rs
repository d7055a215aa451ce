//! The wire format of Protocol Buffers, as much of it as a writer needs.
//!
//! A message is a row of fields, each with its number. Integers are varints, floats have four bytes, texts, bytes and
//! messages inside messages have their length before them. ONNX needs ten small messages that are written and never read;
//! a crate for that would bring more code than it replaces, and a second copy of every weight.

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

/// How a field's content is told apart.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Length = 2,
    Fixed32 = 5,
}

impl Message {
    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire: Wire) {
        self.varint(u64::from(field) << 3 | wire as u64);
    }

    /// A number or an enumeration's value.
    pub fn int(mut self, field: u32, value: i64) -> Self {
        self.key(field, Wire::Varint);
        self.varint(value.cast_unsigned());
        self
    }

    /// A repeated number.
    pub fn ints(self, field: u32, values: &[usize]) -> Self {
        values.iter().fold(self, |message, &value| message.int(field, value as i64))
    }

    /// A float.
    pub fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, Wire::Fixed32);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Bytes.
    pub fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, Wire::Length);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    /// A text.
    pub fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// Another message.
    pub fn message(self, field: u32, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    /// A repeated message, whose parts are given up one by one: a network's weights are not to be held twice.
    pub fn messages(self, field: u32, messages: impl IntoIterator<Item = Self>) -> Self {
        messages.into_iter().fold(self, |all, message| all.message(field, &message))
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What it is on the wire.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the format's own documentation.
    #[test]
    fn fields_are_on_the_wire_as_documented() {
        assert_eq!(Message::default().int(1, 150).into_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").into_bytes(), b"\x12\x07testing");
        let inner = Message::default().int(1, 150);
        assert_eq!(Message::default().message(3, &inner).into_bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().int(1, -2).into_bytes(), [8, 254, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!(Message::default().ints(4, &[3, 270]).into_bytes(), [0x20, 3, 0x20, 0x8e, 0x02]);
        assert_eq!(Message::default().float(2, 1.0).into_bytes(), [0x15, 0, 0, 0x80, 0x3f]);
        assert_eq!(Message::default().int(20, 7).into_bytes(), [0xa0, 0x01, 7]);
        assert_eq!(Message::with_capacity(9).messages(5, [inner]).len(), 5);
    }
}
