//! `ds=nocloud;s=…;i=…;h=…`, as the kernel's command line and a machine's serial number carry it.

/// What such a line tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Where the seed is: a folder, or an address.
    pub seed: Option<String>,
    /// The instance's id.
    pub id: Option<String>,
    /// The host name.
    pub hostname: Option<String>,
}

impl Line {
    /// Finds the word in a text; none if it is not there.
    pub fn find(text: &str) -> Option<Self> {
        // Every boot asks three times, and nearly no machine has it.
        if !text.contains("ds=") {
            return None;
        }
        // Boot loaders keep the quotes that their own syntax needs around the semicolons.
        let text = text.replace(['"', '\''], "");
        text.split_whitespace().find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let mut fields = word.strip_prefix("ci.").unwrap_or(word).strip_prefix("ds=")?.split(';');
        if !["nocloud", "nocloud-net"].contains(&fields.next()?.to_ascii_lowercase().as_str()) {
            return None;
        }
        let mut line = Line::default();
        for (key, value) in fields.filter_map(|field| field.split_once('=')).filter(|(_, value)| !value.is_empty()) {
            let field = match key {
                "s" | "seedfrom" => &mut line.seed,
                "i" | "instance-id" => &mut line.id,
                "h" | "local-hostname" => &mut line.hostname,
                _ => continue,
            };
            *field = Some(value.to_owned());
        }
        Some(line)
    }

    /// This line, and another where this one says nothing.
    pub fn or(self, other: Line) -> Line {
        Line { seed: self.seed.or(other.seed), id: self.id.or(other.id), hostname: self.hostname.or(other.hostname) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seed: &str, id: &str, hostname: &str) -> Option<Line> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Some(Line { seed: some(seed), id: some(id), hostname: some(hostname) })
    }

    #[test]
    fn the_word_is_found_in_every_spelling() {
        for (text, found) in [
            ("root=/dev/vda ds=nocloud;s=/seed/;i=i-1;h=web quiet", line("/seed/", "i-1", "web")),
            ("ds=nocloud", line("", "", "")),
            ("ds=nocloud-net;s=http://10.0.0.1/", line("http://10.0.0.1/", "", "")),
            ("ci.ds=NoCloud;seedfrom=/a;instance-id=b;local-hostname=c", line("/a", "b", "c")),
            ("ds=\"nocloud;s=/seed/\"", line("/seed/", "", "")),
            ("'ds=nocloud;h=web;x=y;;i='", line("", "", "web")),
            ("ds=ec2", None),
            ("ds=nocloudy", None),
            ("xds=nocloud", None),
            ("", None),
        ] {
            assert_eq!(Line::find(text), found, "{text}");
        }
    }
}
