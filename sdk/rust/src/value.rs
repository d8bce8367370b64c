//! Values: what a state or a payload may hold.

use std::ops::Index;

use crate::host::fail;

/// One value of any type. `Uint` is for integers above `i64::MAX` only; all others are `Int`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

static NONE: Value = Value::None;

fn bad(wanted: &str) -> ! {
    fail("bad_value", wanted)
}

/// The methods that give a plain type fail the task with `bad_value` where the value has another one.
impl Value {
    pub fn is_none(&self) -> bool {
        matches!(self, Value::None)
    }

    pub fn bool(&self) -> bool {
        match self {
            Value::Bool(value) => *value,
            _ => bad("true or false is needed"),
        }
    }

    pub fn int(&self) -> i64 {
        match self {
            Value::Int(value) => *value,
            _ => bad("an integer is needed"),
        }
    }

    /// The number, or `otherwise` if there is no value.
    pub fn int_or(&self, otherwise: i64) -> i64 {
        if self.is_none() {
            otherwise
        } else {
            self.int()
        }
    }

    /// The number, also of an integer.
    pub fn float(&self) -> f64 {
        match self {
            Value::Float(value) => *value,
            Value::Uint(value) => *value as f64,
            _ => self.int() as f64,
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Value::Text(value) => value,
            _ => bad("text is needed"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Value::Bytes(value) => value,
            Value::Text(value) => value.as_bytes(),
            _ => bad("bytes are needed"),
        }
    }

    /// The items of a list; none for any other value.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The pairs of a map in order; none for any other value.
    pub fn pairs(&self) -> &[(Value, Value)] {
        match self {
            Value::Map(pairs) => pairs,
            _ => &[],
        }
    }

    /// The value of `key`; `None` if this is no map or has no such key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = |pair: &&(Value, Value)| matches!(&pair.0, Value::Text(text) if text == key);
        self.pairs().iter().find(found).map(|pair| &pair.1)
    }

    /// Replace the value of `key`, or add it at the end. None becomes a map; any other value fails the task.
    pub fn put(&mut self, key: &str, value: impl Into<Value>) {
        if self.is_none() {
            *self = Value::Map(Vec::new());
        }
        let pairs = match self {
            Value::Map(pairs) => pairs,
            _ => bad("a map is needed"),
        };
        let is_key = |pair: &&mut (Value, Value)| matches!(&pair.0, Value::Text(text) if text == key);
        match pairs.iter_mut().find(is_key) {
            Some(pair) => pair.1 = value.into(),
            None => pairs.push((key.into(), value.into())),
        }
    }

    /// Add an item to the end of a list. None becomes a list; any other value fails the task.
    pub fn push(&mut self, item: impl Into<Value>) {
        if self.is_none() {
            *self = Value::List(Vec::new());
        }
        match self {
            Value::List(items) => items.push(item.into()),
            _ => bad("a list is needed"),
        }
    }
}

/// `value["key"]`: the value of the key, or `Value::None`.
impl Index<&str> for Value {
    type Output = Value;
    fn index(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NONE)
    }
}

/// `value[2]`: the item, or `Value::None`.
impl Index<usize> for Value {
    type Output = Value;
    fn index(&self, index: usize) -> &Value {
        self.items().get(index).unwrap_or(&NONE)
    }
}

macro_rules! from {
    ($($type:ty, $value:ident => $made:expr;)*) => {
        $(impl From<$type> for Value { fn from($value: $type) -> Value { $made } })*
    };
}

from! {
    bool, value => Value::Bool(value);
    i32, value => Value::Int(value.into());
    i64, value => Value::Int(value);
    u8, value => Value::Int(value.into());
    u32, value => Value::Int(value.into());
    u64, value => i64::try_from(value).map_or(Value::Uint(value), Value::Int);
    usize, value => (value as u64).into();
    f64, value => Value::Float(value);
    &str, value => Value::Text(value.to_owned());
    &String, value => Value::Text(value.clone());
    String, value => Value::Text(value);
    &[u8], value => Value::Bytes(value.to_vec());
    &[u8; 32], value => Value::Bytes(value.to_vec());
    &Vec<u8>, value => Value::Bytes(value.clone());
    Vec<u8>, value => Value::Bytes(value);
    Vec<Value>, value => Value::List(value);
    &Value, value => value.clone();
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::None, Into::into)
    }
}
