//! MessagePack, in its shortest form: one value, one encoding.

use crate::value::Value;

const DEPTH_MAX: u32 = 200; // of lists and maps in each other

pub fn raw(out: &mut Vec<u8>, tag: u8, value: u64, size: usize) {
    out.push(tag);
    out.extend_from_slice(&value.to_be_bytes()[8 - size..]);
}

pub fn nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

pub fn uint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x7f => out.push(value as u8),
        0x80..=0xff => raw(out, 0xcc, value, 1),
        0x100..=0xffff => raw(out, 0xcd, value, 2),
        0x1_0000..=0xffff_ffff => raw(out, 0xce, value, 4),
        _ => raw(out, 0xcf, value, 8),
    }
}

pub fn int(out: &mut Vec<u8>, value: i64) {
    let bits = value as u64;
    match value {
        0.. => uint(out, bits),
        -32..=-1 => out.push(bits as u8),
        -0x80..=-33 => raw(out, 0xd0, bits, 1),
        -0x8000..=-0x81 => raw(out, 0xd1, bits, 2),
        -0x8000_0000..=-0x8001 => raw(out, 0xd2, bits, 4),
        _ => raw(out, 0xd3, bits, 8),
    }
}

fn length(out: &mut Vec<u8>, size: usize, fix: u8, fix_max: usize, tag8: u8, tag16: u8) {
    match size {
        _ if size <= fix_max => out.push(fix | size as u8),
        _ if size <= 0xff && tag8 != 0 => raw(out, tag8, size as u64, 1),
        _ if size <= 0xffff => raw(out, tag16, size as u64, 2),
        _ => raw(out, tag16 + 1, size as u64, 4),
    }
}

pub fn array(out: &mut Vec<u8>, count: usize) {
    length(out, count, 0x90, 15, 0, 0xdc);
}

pub fn text(out: &mut Vec<u8>, value: &str) {
    length(out, value.len(), 0xa0, 31, 0xd9, 0xda);
    out.extend_from_slice(value.as_bytes());
}

pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    // bin has no short form: 8, 16 or 32 bits of length.
    match value.len() {
        size if size <= 0xff => raw(out, 0xc4, size as u64, 1),
        size if size <= 0xffff => raw(out, 0xc5, size as u64, 2),
        size => raw(out, 0xc6, size as u64, 4),
    }
    out.extend_from_slice(value);
}

pub fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => nil(out),
        Value::Bool(value) => out.push(0xc2 + *value as u8),
        Value::Int(value) => int(out, *value),
        Value::Uint(value) => uint(out, *value),
        Value::Float(value) => raw(out, 0xcb, value.to_bits(), 8),
        Value::Text(value) => text(out, value),
        Value::Bytes(value) => bytes(out, value),
        Value::List(items) => {
            array(out, items.len());
            items.iter().for_each(|item| self::value(out, item));
        }
        Value::Map(pairs) => {
            length(out, pairs.len(), 0x80, 15, 0, 0xde);
            for (key, item) in pairs {
                self::value(out, key);
                self::value(out, item);
            }
        }
    }
}

/// Reads values off the front of the bytes. Each method gives `None` where something else stands there.
pub struct Reader<'a> {
    pub left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let found = self.left.get(..size)?;
        self.left = &self.left[size..];
        Some(found)
    }

    fn number(&mut self, size: usize) -> Option<u64> {
        Some(self.take(size)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub fn value(&mut self) -> Option<Value> {
        self.nested(0)
    }

    fn nested(&mut self, depth: u32) -> Option<Value> {
        let tag = self.number(1)? as u8;
        Some(match tag {
            0..=0x7f => Value::Int(tag.into()),
            0x80..=0x8f => self.map((tag & 15).into(), depth)?,
            0x90..=0x9f => self.list((tag & 15).into(), depth)?,
            0xa0..=0xbf => self.text((tag & 31).into())?,
            0xc0 => Value::None,
            0xc2 | 0xc3 => Value::Bool(tag == 0xc3),
            0xc4..=0xc6 => {
                let size = self.number(1 << (tag - 0xc4))?;
                Value::Bytes(self.take(size as usize)?.to_vec())
            }
            0xca => Value::Float(f32::from_bits(self.number(4)? as u32).into()),
            0xcb => Value::Float(f64::from_bits(self.number(8)?)),
            0xcc..=0xcf => self.number(1 << (tag - 0xcc))?.into(),
            0xd0 => Value::Int((self.number(1)? as i8).into()),
            0xd1 => Value::Int((self.number(2)? as i16).into()),
            0xd2 => Value::Int((self.number(4)? as i32).into()),
            0xd3 => Value::Int(self.number(8)? as i64),
            0xd9..=0xdb => {
                let size = self.number(1 << (tag - 0xd9))?;
                self.text(size as usize)?
            }
            0xdc | 0xdd => {
                let count = self.number(2 << (tag - 0xdc))?;
                self.list(count as usize, depth)?
            }
            0xde | 0xdf => {
                let count = self.number(2 << (tag - 0xde))?;
                self.map(count as usize, depth)?
            }
            0xe0..=0xff => Value::Int((tag as i8).into()),
            _ => return None, // extensions
        })
    }

    fn text(&mut self, size: usize) -> Option<Value> {
        Some(Value::Text(String::from_utf8(self.take(size)?.to_vec()).ok()?))
    }

    fn list(&mut self, count: usize, depth: u32) -> Option<Value> {
        // Every element has at least a byte: a longer promise is a lie and must not steer an allocation.
        if count > self.left.len() || depth == DEPTH_MAX {
            return None;
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.nested(depth + 1)?);
        }
        Some(Value::List(items))
    }

    fn map(&mut self, count: usize, depth: u32) -> Option<Value> {
        if count > self.left.len() || depth == DEPTH_MAX {
            return None;
        }
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            pairs.push((self.nested(depth + 1)?, self.nested(depth + 1)?));
        }
        Some(Value::Map(pairs))
    }
}

/// The one value that the bytes are.
pub fn read(data: &[u8]) -> Option<Value> {
    let mut reader = Reader { left: data };
    let value = reader.value()?;
    reader.left.is_empty().then(|| value)
}
