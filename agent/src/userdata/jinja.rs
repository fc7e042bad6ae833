//! Templates: `## template: jinja` in the first line, and the variables of the instance.

use kiln_schema::diagnostic::Diagnostic;

use super::kinds::{self, Kind};
use super::{Item, Reader};
use crate::template;

impl Reader<'_> {
    /// Fills in a template and reads what it becomes, which is cloud-config, a script or a boothook.
    pub(super) fn template(&mut self, source: &str, item: &Item<'_>) {
        let Some(text) = self.text(source, item) else { return };
        let (head, has_header) = head(text);
        if has_header && !is_jinja(&text[..head]) {
            let message = "the first line of a template must be `## template: jinja`: no other engine is there";
            return self.found(Diagnostic::error(source, message));
        }
        let variables = self.surroundings.variables.map(|variables| variables());
        let rendered = match template::fill(text, variables.as_ref()) {
            Ok(rendered) => rendered,
            // Without an instance only the form can be looked at.
            Err(fault) if variables.is_none() && !fault.is_of_form => return,
            Err(fault) => {
                let mut finding = Diagnostic::error(source, fault.message);
                finding.line = fault.line;
                finding.excerpt = fault.line.and_then(|line| text.lines().nth(line - 1)).map(str::to_owned);
                return self.found(finding);
            }
        };
        // The header holds no tags, so it is in what was rendered too. Its line stays, for the places of findings.
        let body = rendered.get(head..).unwrap_or_default();
        let lines = "\n".repeat(text[..head].matches('\n').count());
        let bytes = (lines + body).into_bytes();
        if bytes.len() > self.bytes_left {
            return self.found(Diagnostic::error(source, "the template becomes too large"));
        }
        self.bytes_left -= bytes.len();
        let sniffed = kinds::of_first_line(kinds::without_lead(&bytes));
        let declared = item.kind.filter(|kind| *kind != Kind::Template);
        match declared.or(sniffed) {
            Some(kind @ (Kind::CloudConfig | Kind::Script(_))) => self.read(Item {
                bytes: &bytes,
                kind: Some(kind),
                file_name: item.file_name.clone(),
                merge: item.merge.clone(),
                launch_index: None,
                label: Some(format!("{source} (filled in)")),
                is_rendered: true,
                in_mime: item.in_mime,
                depth: item.depth + 1,
            }),
            // A template may come out empty on purpose.
            None if body.trim().is_empty() => {}
            _ => {
                let message = "the template becomes no kind that can be one: its second line must be `#cloud-config`, \
                               `#cloud-boothook`, or `#!` and an interpreter";
                self.found(Diagnostic::error(source, message));
            }
        }
    }
}

/// Where the header's line ends, and whether there is one: a part of type text/jinja2 may lack it.
fn head(text: &str) -> (usize, bool) {
    let lead = text.len() - text.trim_start().len();
    if kinds::of_first_line(&text.as_bytes()[lead..]) != Some(Kind::Template) {
        return (0, false);
    }
    let end = text[lead..].find('\n').map_or(text.len(), |at| lead + at + 1);
    (end, true)
}

fn is_jinja(head: &str) -> bool {
    let line = head.trim().to_ascii_lowercase();
    line.strip_prefix("## template:").is_some_and(|engine| engine.trim() == "jinja")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{config, errors, mime, read};
    use super::super::{Surroundings, UserData, When, parse};

    fn filled(text: &str) -> UserData {
        let variables =
            || json!({"v1": {"region": "eu-west-1"}, "region": "eu-west-1", "ds": {"meta_data": {"ami_id": "ami-1"}}});
        parse("user-data", text.as_bytes(), &Surroundings { variables: Some(&variables), ..Surroundings::default() })
    }

    #[test]
    fn every_kind_that_can_be_a_template_is_filled_in() {
        let data = filled(
            "## template: jinja\n#cloud-config\na: {{ v1.region }} {{ ds.meta_data.ami_id }}\n{% if nope %}\nb: 1\n{% endif %}\n",
        );
        assert_eq!((config(&data).as_str(), errors(&data)), (r#"{"a":"eu-west-1 ami-1"}"#, vec![]));
        for header in
            ["## template: jinja", "\n\u{feff}\n## template: jinja", "## template: jinja \t", "## Template:  Jinja\r"]
        {
            let header = header.trim_start_matches(['\n', '\u{feff}']);
            let data = filled(&format!("\n{header}\n#!/bin/sh\necho {{{{ region }}}}\n"));
            assert_eq!(data.scripts[0].body, b"#!/bin/sh\necho eu-west-1\n", "{:?}", errors(&data));
        }
        let data = filled("## template: jinja\n#cloud-boothook\necho {{ region }}\n");
        assert_eq!((data.scripts[0].when, data.scripts[0].body.as_slice()), (When::Hook, &b"echo eu-west-1\n"[..]));
    }

    #[test]
    fn a_part_is_filled_in_whatever_type_says_so() {
        let data = filled(&mime(
            "b",
            &[
                "Content-Type: text/jinja2\n\n## template: jinja\n#cloud-config\na: {{ region }}",
                "Content-Type: text/jinja2\n\n#cloud-config\nb: {{ region }}",
                "Content-Type: text/cloud-config\n\n## template: jinja\nc: {{ region }}",
                "Content-Type: text/x-shellscript-per-boot\n\n## template: jinja\n#!/bin/sh\n# {{ region }}",
            ],
        ));
        assert_eq!(config(&data), r#"{"a":"eu-west-1","b":"eu-west-1","c":"eu-west-1"}"#, "{:?}", errors(&data));
        assert_eq!(
            (data.scripts[0].when, data.scripts[0].body.as_slice()),
            (When::EveryBoot, &b"#!/bin/sh\n# eu-west-1"[..])
        );
    }

    #[test]
    fn a_template_that_cannot_be_filled_in_is_dropped_and_told_with_its_line() {
        for (text, told) in [
            ("#cloud-config\na: {{ nope }}\n", "user-data:3: error: `nope` is not defined"),
            (
                "#cloud-config\n\na: {{ v1.regoin }}\n",
                "user-data:4: error: `v1.regoin` is not defined: did you mean `region`?",
            ),
            ("#cloud-config\na: {% if %}\n", "user-data:3: error: syntax error"),
            ("#cloud-config\na: [{{ region }}\n", "user-data (filled in):"),
            ("#include\nhttp://x/{{ region }}\n", "user-data: error: the template becomes no kind"),
            ("a: 1\n", "user-data: error: the template becomes no kind"),
            ("## template: jinja\n#cloud-config\na: 1\n", "user-data: error: the template becomes no kind"),
        ] {
            let data = filled(&format!("## template: jinja\n{text}"));
            assert_eq!((config(&data).as_str(), errors(&data).len()), ("{}", 1), "{text}: {:?}", errors(&data));
            assert!(errors(&data)[0].starts_with(told), "{:?}", errors(&data));
        }
        let other = filled("## template: mako\n#cloud-config\na: 1\n");
        assert!(errors(&other)[0].contains("no other engine"), "{:?}", errors(&other));
        assert_eq!(config(&filled("## template: jinja\n{% if nope %}\n#cloud-config\na: 1\n{% endif %}\n")), "{}");
    }

    #[test]
    fn without_an_instance_the_form_is_looked_at_and_what_needs_no_variable() {
        assert_eq!(errors(&read("## template: jinja\n#cloud-config\na: {{ v1.region }}\n")), Vec::<String>::new());
        for (text, told) in [
            ("#cloud-config\na: {% if x %}\n", "syntax error"),
            ("#cloud-config\na: {{ 1 | shout }}\n", "unknown filter"),
            ("#cloud-config\na: [\n", "not valid YAML"),
        ] {
            let found = errors(&read(format!("## template: jinja\n{text}")));
            assert!(found.len() == 1 && found[0].contains(told), "{found:?}");
        }
    }
}
