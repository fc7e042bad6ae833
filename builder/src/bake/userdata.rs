//! The user-data of a bake, and the settings that stay in the image.

use kiln_schema::yaml::{Node, Value, scalar};
use serde_json::json;

use crate::images::Recipe;

/// The key of the agent's own settings.
const OWN: &str = "kiln";

/// What the agent is told during a bake.
pub struct Documents {
    /// What the instance gets as user-data.
    pub user_data: String,
    /// A drop-in that stands for user-data and is gone before the image is made. Only on a base
    /// without the agent: its cloud-init would act on the image's keys before the agent is there,
    /// run the scripts a first time and install a puppet of its own.
    pub bake: Option<String>,
    /// The drop-in that stays: where instances find their user-data, and what they are for.
    pub image: String,
}

/// The documents for a bake on a base that has the agent, or has not.
pub fn documents(recipe: &Recipe, base_has_agent: bool) -> Documents {
    let mut bake = String::new();
    let user_data = recipe.user_data.as_ref();
    if let Some(node) = user_data {
        write_entries(node, 0, |key| key != OWN, &mut bake);
    }
    if let Some(role) = &recipe.role {
        bake.push_str(&format!("role: {}\n", json!(role)));
    }
    let settings = "kiln:\n  strict: true\n  baking: true\n";
    bake.push_str(settings);
    // The tests of a bake that lie in the image already.
    if let Some(own) = user_data.and_then(|node| node.get(OWN)) {
        write_entries(own, 1, |_| true, &mut bake);
    }
    let mut image = "# Written when this image was baked.\ndatasource: [ec2]\n".to_owned();
    if let Some(role) = &recipe.role {
        image.push_str(&format!("role: {}\n", json!(role)));
    }
    let (user_data, bake) = if base_has_agent { (bake, None) } else { (settings.to_owned(), Some(bake)) };
    Documents { user_data: format!("#cloud-config\n{user_data}"), bake, image }
}

/// Writes a mapping's entries, each scalar with the meaning it had: serde would make 420 of the mode
/// `0644`, and text of the boolean `yes`. What is quoted here is a JSON string, which YAML reads too.
fn write_entries(node: &Node, depth: usize, wanted: fn(&str) -> bool, out: &mut String) {
    for entry in node.entries().iter().filter(|entry| wanted(&entry.key)) {
        out.push_str(&"  ".repeat(depth));
        out.push_str(&json!(entry.key).to_string());
        out.push(':');
        write_value(&entry.value, depth, out);
    }
}

fn write_value(node: &Node, depth: usize, out: &mut String) {
    match &node.value {
        Value::Scalar(scalar) => {
            let tag = scalar.tag.as_ref().map(|tag| format!(" !!{tag}")).unwrap_or_default();
            // A plain word that an untyped reader takes for something else than text must stay plain.
            let bare = scalar.plain && scalar.tag.is_none() && !scalar::untyped(scalar).is_string();
            let text = if bare { scalar.text.clone() } else { json!(scalar.text).to_string() };
            out.push_str(&format!("{tag} {text}\n"));
        }
        Value::List(items) if items.is_empty() => out.push_str(" []\n"),
        Value::List(items) => {
            out.push('\n');
            for item in items {
                out.push_str(&"  ".repeat(depth + 1));
                out.push('-');
                match &item.value {
                    Value::Map(entries) if !entries.is_empty() => {
                        out.push('\n');
                        write_entries(item, depth + 2, |_| true, out);
                    }
                    _ => write_value(item, depth + 1, out),
                }
            }
        }
        Value::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::Map(_) => {
            out.push('\n');
            write_entries(node, depth + 1, |_| true, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::names::tests::recipe;

    /// The tree with spellings, without places.
    fn shape(node: &Node) -> String {
        match &node.value {
            Value::Scalar(scalar) => format!("{:?}/{}/{:?}", scalar.text, scalar::untyped(scalar), scalar.tag),
            Value::List(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(", ")),
            Value::Map(entries) => format!(
                "{{{}}}",
                entries
                    .iter()
                    .map(|entry| format!("{:?}: {}", entry.key, shape(&entry.value)))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }

    fn parsed(text: &str) -> Node {
        kiln_schema::yaml::parse("test", text).unwrap().0
    }

    #[test]
    fn what_is_written_reads_as_what_was_meant() {
        for text in [
            "a: 0644\nb: '0644'\nc: yes\nd: 'yes'\ne: 1.10\nf: ~\ng:\nh: ''\ni: 0x1f\nj: 12:30\nk: 2012-09-01",
            "runcmd:\n- [ls, -l, 1]\n- echo \"a: b\" # no comment\n- - []\n  - {}\n- a: 1\n  b: [x, {c: d}]\n-",
            "content: |\n  one\n   two: [\n\n  three\nfolded: >\n  a\n  b\nodd: \"tab\\t quote\\\" \\u00e9 \\x01\"",
            "bin: !!binary aGVsbG8=\ntext: !!str 12\n'key: odd': {\"*\": '&x', '- ': '!y', 'yes': no}",
            "{}",
        ] {
            let node = parsed(text);
            let mut out = String::new();
            write_entries(&node, 0, |_| true, &mut out);
            let again = if out.is_empty() { "{}" } else { &out };
            assert_eq!(shape(&parsed(again)), shape(&node), "{text}\n---\n{out}");
        }
    }

    #[test]
    fn a_base_with_the_agent_gets_everything_as_user_data() {
        let recipe = Recipe { user_data: Some(parsed("puppet: {mode: apply}")), ..recipe() };
        let documents = documents(&recipe, true);
        assert_eq!(
            documents.user_data,
            "#cloud-config\n\"puppet\":\n  \"mode\": \"apply\"\nrole: \"web\"\nkiln:\n  strict: true\n  baking: true\n"
        );
        assert_eq!(documents.bake, None);
        assert_eq!(documents.image, "# Written when this image was baked.\ndatasource: [ec2]\nrole: \"web\"\n");
    }

    #[test]
    fn the_tests_that_user_data_names_stand_among_the_settings_of_the_bake() {
        let recipe = Recipe { user_data: Some(parsed("{kiln: {tests: [/opt/t]}, a: 1}")), role: None, ..recipe() };
        let user_data = documents(&recipe, true).user_data;
        assert_eq!(
            user_data,
            "#cloud-config\n\"a\": 1\nkiln:\n  strict: true\n  baking: true\n  \"tests\":\n    - \"/opt/t\"\n"
        );
        let own = kiln_schema::yaml::parse("test", &user_data).unwrap();
        assert_eq!((own.1.len(), own.0.get("kiln").unwrap().entries().len()), (0, 3));
    }

    #[test]
    fn a_stock_base_gets_nothing_that_its_cloud_init_would_act_on() {
        let recipe = Recipe { user_data: Some(parsed("runcmd: [reboot]")), role: None, ..recipe() };
        let documents = documents(&recipe, false);
        assert_eq!(documents.user_data, "#cloud-config\nkiln:\n  strict: true\n  baking: true\n");
        assert!(documents.bake.unwrap().contains("runcmd"));
        assert_eq!(documents.image, "# Written when this image was baked.\ndatasource: [ec2]\n");
    }
}
