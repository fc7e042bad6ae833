//! Lines of /etc/fstab, of which those that end in this agent's mark are its own.

/// Stands last among the options of a line of the user-data's, as cloud-init has it.
pub const MARK: &str = "comment=cloudconfig";

/// The six fields of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(pub [String; 6]);

impl Line {
    /// What is mounted.
    pub fn source(&self) -> &str {
        &self.0[0]
    }

    /// Where.
    pub fn place(&self) -> &str {
        &self.0[1]
    }

    /// The kind of file system.
    pub fn kind(&self) -> &str {
        &self.0[2]
    }

    /// Whether it has an option.
    pub fn has(&self, option: &str) -> bool {
        self.0[3].split(',').any(|own| own == option)
    }

    fn text(&self) -> String {
        let mut fields = self.0.clone().map(|field| escape(&field));
        fields[3] = format!("{},{MARK}", fields[3]);
        fields.join("\t")
    }
}

/// Blanks within a field, as fstab(5) writes them; what is escaped already stays.
fn escape(field: &str) -> String {
    field.replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

fn is_own(line: &str) -> bool {
    let line = line.trim_start();
    let options = line.split_whitespace().nth(3).unwrap_or_default();
    !line.starts_with('#') && options.split(',').any(|option| option == MARK)
}

/// What the lines of others mount.
pub fn others(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !is_own(line));
    lines.filter_map(|line| line.split_whitespace().next()).filter(|source| !source.starts_with('#')).collect()
}

/// The file with these lines in place of the agent's earlier ones; those of others stay byte for byte.
pub fn with(text: &str, lines: &[Line]) -> String {
    let mut text: String = text.split_inclusive('\n').filter(|line| !is_own(line)).collect();
    if !text.is_empty() && !text.ends_with('\n') && !lines.is_empty() {
        text.push('\n');
    }
    for line in lines {
        text.push_str(&line.text());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(fields: [&str; 6]) -> Line {
        Line(fields.map(str::to_owned))
    }

    #[test]
    fn own_lines_are_replaced_and_those_of_others_stay_byte_for_byte() {
        let theirs = "# /etc/fstab \t\nUUID=x  /   ext4 rw,comment=cloudconfigs 0 1\n\n#/dev/sdb\t/x\tauto\tcomment=cloudconfig 0 0";
        let swap = line(["/swap.img", "none", "swap", "sw", "0", "0"]);
        let with_swap = format!("{theirs}\n/swap.img\tnone\tswap\tsw,comment=cloudconfig\t0\t0\n");
        assert_eq!(with(theirs, std::slice::from_ref(&swap)), with_swap);
        assert_eq!(with(&with_swap, std::slice::from_ref(&swap)), with_swap);
        assert_eq!(with(&with_swap, &[]), format!("{theirs}\n"));
        assert_eq!((with("", &[]), with("a", &[])), (String::new(), "a".to_owned()));
        assert_eq!(others(&with_swap), ["UUID=x"]);
    }

    #[test]
    fn blanks_within_a_field_do_not_make_more_fields() {
        let odd = line(["//nas/my share", "/my\tdir", "cifs", "user=a\nb", "0", "0"]);
        let text = with("", &[odd]);
        assert_eq!(text, "//nas/my\\040share\t/my\\011dir\tcifs\tuser=a\\012b,comment=cloudconfig\t0\t0\n");
        let escaped = line(["LABEL=a\\040b", "/a", "auto", "rw,noauto", "0", "0"]);
        assert!(with("", std::slice::from_ref(&escaped)).starts_with("LABEL=a\\040b\t"));
        assert!(escaped.has("noauto") && !escaped.has("auto"));
    }
}
