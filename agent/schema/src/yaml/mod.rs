//! Reading documents that were written for a YAML 1.1 reader, without losing where each value stood.
//!
//! A document is parsed into a tree of [`Node`]s that keep their spelling and their place. The tree
//! is merged and looked at as it is; only [`read`] turns a part of it into a type. So a type decides
//! what a spelling means (`0644` is a mode here and a name there), and every error has a place.
//!
//! - `node`: the tree.
//! - `parse`: text to tree: anchors, merge keys, duplicate keys, limits.
//! - `scalar`: what a spelling means to each type. The whole tolerance is in that file.
//! - `read`: tree to type, with what is told of it; `de`: how, through serde; `access`: what it walks through.
//! - `types`: field types for user-data: [`Mode`], [`Each`], [`Named`], [`Argv`], [`Spelled`],
//!   [`Texts`].

mod access;
mod de;
mod node;
mod outdented;
mod parse;
mod read;
pub mod scalar;
mod types;

#[cfg(test)]
mod documents;
#[cfg(test)]
mod spellings;
#[cfg(test)]
mod tests;

pub use de::{LONE, QUOTED, STRUCT_OR_LIST, tolerant};
pub use node::{Entry, Node, Place, Scalar, Source, Value};
pub use parse::parse;
pub use read::{Checked, fields_of, read, read_portable, read_rest};
pub use types::{Argv, Each, Maybe, Mode, Named, Spelled, Texts};
