//! What packer prints under `-machine-readable`: `time,target,type,data…`, a comma inside data
//! written as `%!(PACKER_COMMA)` and a line break as `\n`.

/// One line of packer's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something for a person: a step of packer, or a line from the instance.
    Say(String),
    /// Something that went wrong.
    Error(String),
    /// An image was made: `(region, id)`.
    Image(String, String),
    /// A line of another kind, or of none.
    Other(String),
}

impl Event {
    /// The event with its text, or each text of it, as `change` makes it.
    #[must_use]
    pub fn map(self, change: impl Fn(String) -> String) -> Event {
        match self {
            Event::Say(text) => Event::Say(change(text)),
            Event::Error(text) => Event::Error(change(text)),
            Event::Image(region, id) => Event::Image(region, id),
            Event::Other(text) => Event::Other(change(text)),
        }
    }
}

/// The values of one line. One line can name images in several regions.
pub fn parse(line: &str) -> Vec<Event> {
    let fields: Vec<String> = line.split(',').map(unescape).collect();
    let known = fields.first().is_some_and(|time| !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit()));
    let words: Vec<&str> = fields.iter().skip(2).map(String::as_str).collect();
    match words[..] {
        ["ui", "error", text] if known => lines(text).map(Event::Error).collect(),
        ["ui", _, text] if known => lines(text).map(Event::Say).collect(),
        ["artifact", _, "id", ids] if known => images(ids),
        _ => vec![Event::Other(line.to_owned())],
    }
}

/// The images of an artifact: `eu-west-1:ami-1,us-east-1:ami-2`. An artifact of another kind has none.
fn images(ids: &str) -> Vec<Event> {
    let pairs = ids.split(',').filter_map(|pair| pair.split_once(':'));
    let images = pairs.filter(|(_, id)| id.starts_with("ami-"));
    images.map(|(region, id)| Event::Image(region.to_owned(), id.to_owned())).collect()
}

fn unescape(field: &str) -> String {
    field.replace("%!(PACKER_COMMA)", ",").replace("\\n", "\n").replace("\\r", "\r")
}

fn lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('\n').map(|line| line.trim_end_matches('\r').to_owned())
}

/// A line without the mark and the name that packer puts before it: `==> golden: text`.
pub fn without_prefix<'a>(line: &'a str, build: &str) -> &'a str {
    let text = line.strip_prefix("==> ").unwrap_or(line).trim_start();
    text.strip_prefix(build).and_then(|rest| rest.strip_prefix(':')).map_or(text, str::trim_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as packer 1.6.6 printed them.
    const RECORDED: &str = include_str!("recorded-1.6.6.txt");

    #[test]
    fn recorded_lines_become_events() {
        let events: Vec<_> = RECORDED.lines().flat_map(parse).collect();
        for expected in [
            Event::Say("==> golden: Launching a source AWS instance...".to_owned()),
            Event::Say("    golden: one, two".to_owned()),
            Event::Error("==> golden: three".to_owned()),
            Event::Error(
                "Build 'golden' errored after 2 seconds 364 milliseconds: Script exited with non-zero exit status: \
                 3.Allowed exit codes are: [0]"
                    .to_owned(),
            ),
            Event::Image("us-east-1".to_owned(), "ami-75b5dfd48877b5c08".to_owned()),
        ] {
            assert!(events.contains(&expected), "{expected:?} is not in {events:#?}");
        }
        let plain = |event: &Event| match event {
            Event::Say(text) | Event::Error(text) => !text.contains("PACKER_COMMA") && !text.contains("\\n"),
            _ => true,
        };
        assert!(events.iter().all(plain));
    }

    #[test]
    fn an_artifact_in_two_regions_is_two_images() {
        let line = "1,g,artifact,0,id,us-east-1:ami-a%!(PACKER_COMMA)us-west-2:ami-b";
        let image = |region: &str, id: &str| Event::Image(region.to_owned(), id.to_owned());
        assert_eq!(parse(line), [image("us-east-1", "ami-a"), image("us-west-2", "ami-b")]);
    }

    #[test]
    fn what_is_not_of_the_format_is_kept_as_it_is() {
        for line in ["", "panic: runtime error, no time", "1795528253,,version,1.6.6", "x,,ui,say,hello"] {
            assert_eq!(parse(line), [Event::Other(line.to_owned())]);
        }
        assert_eq!(parse("1,,artifact,0,id,golden.img"), []);
    }

    #[test]
    fn the_prefix_goes_and_the_text_stays() {
        for (line, text) in [
            ("==> golden: Stopping instance", "Stopping instance"),
            ("    golden: Instance ID: i-1", "Instance ID: i-1"),
            ("==> Wait completed", "Wait completed"),
            ("    golden: golden: said twice", "golden: said twice"),
        ] {
            assert_eq!(without_prefix(line, "golden"), text);
        }
    }
}
