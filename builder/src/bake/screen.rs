//! The lower end of a terminal, which is written anew while something is waited for.
//!
//! Every image that is being baked has a block of lines there. Lines that are to stay are printed above all
//! blocks. Nothing is written here: whoever has the terminal writes what these functions give.

/// The blocks, and how many of their lines stand on the terminal.
#[derive(Debug, Default)]
pub struct Screen {
    blocks: Vec<(String, Vec<String>)>,
    drawn: usize,
}

impl Screen {
    /// Replaces the block of an image; no lines take it away.
    pub fn set(&mut self, image: &str, lines: Vec<String>) -> String {
        let mut out = self.erase();
        self.blocks.retain(|(name, _)| name != image || !lines.is_empty());
        match self.blocks.iter_mut().find(|(name, _)| name == image) {
            Some((_, old)) => *old = lines,
            None if lines.is_empty() => {}
            None => self.blocks.push((image.to_owned(), lines)),
        }
        out.push_str(&self.draw());
        out
    }

    /// Takes the blocks away, so that something can be printed; [`draw`](Screen::draw) brings them back.
    pub fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// Writes the blocks below whatever has been printed.
    pub fn draw(&mut self) -> String {
        let lines: Vec<_> = self.blocks.iter().flat_map(|(_, lines)| lines).collect();
        self.drawn = lines.len();
        // A line longer than the terminal is wide is cut by it: were it wrapped, nobody would know how many
        // there are to take away.
        lines.iter().map(|line| format!("\x1b[?7l\x1b[2m{}\x1b[0m\x1b[?7h\n", plain(line))).collect()
    }
}

/// What programs print may hold orders to the terminal.
fn plain(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal shows that understands these orders.
    fn shown(written: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for part in written.replace("\x1b[?7l\x1b[2m", "").replace("\x1b[0m\x1b[?7h", "").split_inclusive(['\n', 'J']) {
            match part.strip_prefix("\x1b[").and_then(|order| order.strip_suffix("A\x1b[J")) {
                Some(up) => lines.truncate(lines.len() - up.parse::<usize>().unwrap()),
                None => lines.push(part.trim_end().to_owned()),
            }
        }
        lines
    }

    #[test]
    fn blocks_stand_below_what_is_printed_and_go_away() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut screen = Screen::default();
        let mut written = screen.set("a", lines("a1 a2"));
        written += &screen.set("b", lines("b1"));
        assert_eq!(shown(&written), ["a1", "a2", "b1"]);
        written += &(screen.erase() + "printed\n" + &screen.draw());
        written += &screen.set("a", lines("a3"));
        assert_eq!(shown(&written), ["printed", "a3", "b1"]);
        written += &screen.set("a", vec![]);
        written += &screen.set("b", vec![]);
        assert_eq!(shown(&written), ["printed"]);
        assert_eq!(screen.set("c", vec![]), "");
    }

    #[test]
    fn a_line_gives_the_terminal_no_orders() {
        assert!(Screen::default().set("a", vec!["x\x1b[2Jy\r".to_owned()]).contains("x [2Jy "));
    }
}
