//! Tree to type, through serde.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use super::access::{Expecting, Fields, Items, One, Word};
use super::node::{Entry, Node, Scalar, Value};
use super::read::tell;
use super::scalar;
use crate::diagnostic::{Diagnostic, Severity, nearest};

/// Name of the newtype by which a type asks for text or a list, whichever stands there.
pub(super) const LIST_OF_WORDS: &str = "$kiln::list-of-words";
/// Name of the struct by which a type asks for a mapping, a word or a list, whichever stands there. Without fields
/// it is a mapping of any keys.
pub const STRUCT_OR_LIST: &str = "$kiln::struct-or-list";
/// Name of the newtype of a value of which no other spelling is a mistake.
const TOLERANT: &str = "$kiln::tolerant";
/// Name of the newtype of a value that may fail alone.
const ATTEMPT: &str = "$kiln::attempt";
/// What is told of text where true or false is expected.
pub const QUOTED: &str = "text that is taken for true or false; take the quotes away";
/// What is told of text where a number is expected.
const NUMBER: &str = "text that is taken for a number; take the quotes away";
/// What is told of one value where a list is expected.
pub const LONE: &str = "a list is expected here; the value is taken for its only item";
/// Name of the newtype of a value that may be nothing.
pub(super) const MAYBE: &str = "$kiln::maybe";
/// A value that may fail alone: its error is told and the value left out.
pub(super) struct Attempt<T>(pub Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Attempt<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Guarded<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Guarded<T> {
            type Value = Attempt<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }

            /// From the reader below, whose sequence is empty where the value could not be read.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Attempt<T>, A::Error> {
                seq.next_element().map(Attempt)
            }

            /// From a reader that knows nothing of attempts.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Attempt<T>, D::Error> {
                T::deserialize(deserializer).map(|value| Attempt(Some(value)))
            }
        }
        deserializer.deserialize_newtype_struct(ATTEMPT, Guarded(PhantomData))
    }
}

/// Reads a value whose type has several spellings by right: one value for a list of one, or a boolean or a
/// number for text. [`read_portable`](super::read_portable) does not warn of them here, and of those within as elsewhere.
///
/// It is for `deserialize_with`, and for the `Deserialize` of a type that reads a word.
///
/// # Errors
/// Those of the type.
pub fn tolerant<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Inner<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Inner<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a value")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
            T::deserialize(deserializer)
        }
    }
    deserializer.deserialize_newtype_struct(TOLERANT, Inner(PhantomData))
}

/// An error, with its place once it has passed the value that it is about.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) finding: Box<Diagnostic>,
    /// A type met a value of another kind; the message says what it expected.
    pub(super) is_mismatch: bool,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finding.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error { finding: Box::new(Diagnostic::error("", message.to_string())), is_mismatch: false }
    }

    /// Without the value that was found: it may be a password, and the message reaches the status.
    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Error { is_mismatch: true, ..Self::custom(format!("expected {expected}")) }
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("expected {expected}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::custom(format!("unknown value; expected one of {}", expected.join(", ")));
        error.finding.suggestion = nearest(variant, expected.iter().copied());
        error
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("the key `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::custom(format!("the key `{field}` is given twice, under two of its names"))
    }
}

/// The keys that lead to a value.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Start(&'a str),
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Start(start) => f.write_str(start),
            Path::Key(Path::Start(""), key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Reader<'de, 'p> {
    pub(super) node: &'de Node,
    pub(super) path: Path<'p>,
    pub(super) tolerance: Tolerance,
}

/// Where spellings that other readers refuse are no mistakes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Tolerance {
    Nowhere,
    /// At this value, and not at those within it: see [`tolerant`].
    Here,
    Everywhere,
}

impl Tolerance {
    /// What holds for the values within.
    pub(super) fn within(self) -> Self {
        if self == Tolerance::Everywhere { self } else { Tolerance::Nowhere }
    }
}

impl<'de> Reader<'de, '_> {
    fn fields<'a>(&'a self, entries: &'de [Entry], known: Option<&'static [&'static str]>) -> Fields<'de, 'a> {
        Fields { entries, path: &self.path, current: None, known, tolerance: self.tolerance.within() }
    }
}

impl Reader<'_, '_> {
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        let finding = Box::new(self.node.diagnostic(Severity::Error, &self.path.to_string(), message));
        Error { finding, is_mismatch: false }
    }

    pub(super) fn expected(&self, what: &str) -> Error {
        self.error(format!("expected {what}, found {}", self.node.kind()))
    }

    /// Gives an error that a type raised the place of the value that the type was reading.
    pub(super) fn at_here<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| {
            if !error.finding.source.is_empty() {
                return error;
            }
            let mut message = error.finding.message;
            if error.is_mismatch {
                message.push_str(", found ");
                message.push_str(self.node.kind());
            }
            let mut placed = self.error(message);
            placed.finding.suggestion = error.finding.suggestion;
            placed
        })
    }

    fn tolerant(self) -> Self {
        let tolerance = if self.tolerance == Tolerance::Nowhere { Tolerance::Here } else { self.tolerance };
        Reader { tolerance, ..self }
    }

    /// Tells of a value that is taken for what its type expects.
    fn warn(&self, message: &str) {
        if self.tolerance == Tolerance::Nowhere {
            let place = &self.node.place;
            tell(place, Severity::Warning, || place.diagnostic(Severity::Warning, &self.path.to_string(), message));
        }
    }

    /// Tells of an item or an entry that holds nothing. A field without a value is told where its struct is read.
    fn warn_of_nothing(&self) {
        self.warn("nothing stands here, which is as if it were not there");
    }

    /// Tells of a number or a boolean that is taken for text.
    fn warn_of_no_text(&self, scalar: &Scalar) {
        if scalar.plain && scalar.tag.is_none() && self.tolerance == Tolerance::Nowhere {
            match self.node.kind() {
                "a number" => self.warn("a number that is taken for text as it is spelled; put it in quotes"),
                "a boolean" => self.warn("a boolean that is taken for text as it is spelled; put it in quotes"),
                _ => {}
            }
        }
    }

    fn integer<T: TryFrom<i128>>(&self) -> Result<T, Error> {
        let Value::Scalar(scalar) = &self.node.value else {
            return Err(self.expected("a whole number"));
        };
        let number = scalar::integer(&scalar.text).ok_or_else(|| self.expected("a whole number"))?;
        if !scalar.plain && scalar.tag.is_none() {
            self.warn(NUMBER);
        }
        T::try_from(number).map_err(|_| self.error("the number is too large or too small here"))
    }
}

macro_rules! integers {
    ($($method:ident => $visit:ident),+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.integer()?;
            self.at_here(visitor.$visit(number))
        })+
    };
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        use serde_json::Value as Json;
        match &self.node.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar(scalar) => self.at_here(match scalar::untyped(scalar) {
                Json::Bool(truth) => visitor.visit_bool(truth),
                Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                    (Some(whole), _, _) => visitor.visit_u64(whole),
                    (_, Some(whole), _) => visitor.visit_i64(whole),
                    (_, _, fraction) => visitor.visit_f64(fraction.unwrap_or(f64::NAN)),
                },
                Json::String(text) => visitor.visit_string(text),
                _ => visitor.visit_unit(),
            }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(scalar) => match scalar::boolean(&scalar.text) {
                Some(truth) => {
                    if !scalar.plain && scalar.tag.is_none() {
                        self.warn(QUOTED);
                    }
                    self.at_here(visitor.visit_bool(truth))
                }
                None => Err(self.expected("true or false")),
            },
            _ => Err(self.expected("true or false")),
        }
    }

    integers! {
        deserialize_i8 => visit_i8, deserialize_i16 => visit_i16, deserialize_i32 => visit_i32,
        deserialize_i64 => visit_i64, deserialize_i128 => visit_i128, deserialize_u8 => visit_u8,
        deserialize_u16 => visit_u16, deserialize_u32 => visit_u32, deserialize_u64 => visit_u64,
        deserialize_u128 => visit_u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Value::Scalar(scalar) = &self.node.value else {
            return Err(self.expected("a number"));
        };
        if !scalar.plain && scalar.tag.is_none() {
            self.warn(NUMBER);
        }
        #[expect(clippy::cast_precision_loss, reason = "a float field takes the nearest float")]
        let whole = || scalar::integer(&scalar.text).map(|whole| whole as f64);
        match whole().or_else(|| scalar::float(&scalar.text)) {
            Some(number) => self.at_here(visitor.visit_f64(number)),
            None => Err(self.expected("a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => {
                self.warn_of_no_text(scalar);
                self.at_here(visitor.visit_string(scalar::text(scalar)))
            }
            Value::Scalar(_) => {
                self.warn("nothing, which is taken for empty text; write the text, or take the line away");
                self.at_here(visitor.visit_string(String::new()))
            }
            _ => Err(self.expected("text")),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(scalar) => {
                self.warn_of_no_text(scalar);
                let binary = scalar.tag.as_deref() == Some("binary");
                let decoded = if binary { scalar::decode_binary(&scalar.text) } else { None };
                self.at_here(visitor.visit_byte_buf(decoded.unwrap_or_else(|| scalar.text.clone().into_bytes())))
            }
            _ => Err(self.expected("text")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() {
            self.warn_of_nothing();
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() { visitor.visit_unit() } else { Err(self.expected("nothing")) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        if name == ATTEMPT {
            return visitor.visit_seq(One(Some(self)));
        }
        if name == MAYBE && self.node.is_null() {
            return self.at_here(visitor.visit_none());
        }
        if name == TOLERANT {
            return self.at_here(visitor.visit_newtype_struct(self.tolerant()));
        }
        if name != LIST_OF_WORDS {
            return self.at_here(visitor.visit_newtype_struct(self));
        }
        match &self.node.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Scalar(scalar) if !scalar.is_null() => {
                self.warn_of_no_text(scalar);
                self.at_here(visitor.visit_string(scalar::text(scalar)))
            }
            value => {
                let colon = matches!(value, Value::Map(_));
                let advice = if colon { "; put a command that has `: ` in it in quotes" } else { "" };
                Err(self.error(format!("expected {}, found {}{advice}", Expecting(&visitor), self.node.kind())))
            }
        }
    }

    /// A lone value stands for a list of one, and nothing for an empty list.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = match &self.node.value {
            Value::List(items) => items.as_slice(),
            _ if self.node.is_null() => &[],
            _ => std::slice::from_ref(self.node),
        };
        let lone = !matches!(self.node.value, Value::List(_));
        if lone {
            if items.is_empty() { self.warn_of_nothing() } else { self.warn(LONE) }
        }
        let tolerance = self.tolerance.within();
        self.at_here(visitor.visit_seq(Items { items, path: &self.path, next: 0, lone, tolerance }))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Map(entries) => self.at_here(visitor.visit_map(self.fields(entries, None))),
            _ if self.node.is_null() => {
                self.warn_of_nothing();
                self.at_here(visitor.visit_map(self.fields(&[], None)))
            }
            _ => Err(self.expected("a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let entries: &[Entry] = match &self.node.value {
            Value::Map(entries) => entries,
            _ if self.node.is_null() => {
                self.warn_of_nothing();
                &[]
            }
            // Some structs read from text as well (a user by name); the visitor says so, or refuses.
            Value::Scalar(scalar) => {
                return match visitor.visit_string::<Error>(scalar::text(scalar)) {
                    Err(error) if error.is_mismatch => Err(self.expected("a mapping")),
                    read => {
                        if read.is_ok() {
                            self.warn_of_no_text(scalar);
                        }
                        self.at_here(read)
                    }
                };
            }
            Value::List(items) if name == STRUCT_OR_LIST => {
                let items = Items { items, path: &self.path, next: 0, lone: false, tolerance: self.tolerance.within() };
                return self.at_here(visitor.visit_seq(items));
            }
            Value::List(_) => return Err(self.expected("a mapping")),
        };
        // A type without fields of its own takes any key.
        self.at_here(visitor.visit_map(self.fields(entries, (!fields.is_empty()).then_some(fields))))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(_) => self.at_here(visitor.visit_enum(Word(self))),
            _ => Err(self.expected("a word")),
        }
    }

    /// A word of a vocabulary may be `off`.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.tolerant().deserialize_string(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}
