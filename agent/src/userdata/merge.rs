//! Merging documents.

use kiln_schema::yaml::{Node, Value};

/// Lays a document of higher rank over one of lower rank: mappings merge key by key at every depth,
/// lists and scalars of the higher rank replace those of the lower.
pub fn layer(high: Node, low: Node) -> Node {
    match (high.value, low.value) {
        (Value::Map(mut high_entries), Value::Map(low_entries)) => {
            for low_entry in low_entries {
                match high_entries.iter_mut().find(|e| e.key == low_entry.key) {
                    Some(entry) => {
                        let place = entry.value.place.clone();
                        let value = std::mem::replace(&mut entry.value, Node::empty_map(place));
                        entry.value = layer(value, low_entry.value);
                    }
                    None => high_entries.push(low_entry),
                }
            }
            Node { value: Value::Map(high_entries), place: high.place }
        }
        (value, _) => Node { value, place: high.place },
    }
}

/// Adds a later part of the same user-data: its top-level keys replace those of the parts before it.
pub fn part(so_far: Node, next: Node) -> Node {
    match (so_far.value, next.value) {
        (Value::Map(mut entries), Value::Map(next_entries)) => {
            for entry in next_entries {
                match entries.iter_mut().find(|e| e.key == entry.key) {
                    Some(earlier) => *earlier = entry,
                    None => entries.push(entry),
                }
            }
            Node { value: Value::Map(entries), place: so_far.place }
        }
        (_, value) => Node { value, place: next.place },
    }
}
