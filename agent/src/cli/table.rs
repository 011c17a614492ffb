//! [`Table`]: rows under heads, columns as wide as they must be, colours where a terminal is.

/// What a cell says at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be: green.
    Good,
    /// Worth a look: yellow.
    Doubtful,
    /// Wrong or refused: red.
    Bad,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Doubtful => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a tone. Control characters are shown as `?`: names come from a cluster, and a
    /// terminal obeys what it is sent.
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: plain(text.into()), tone }
    }

    /// A text, or a dash where there is none.
    pub fn or_dash(text: Option<impl Into<String>>) -> Self {
        text.map_or_else(|| "-".into(), |text| Self::new(text, Tone::Plain))
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Without what a terminal would take as a command.
pub fn plain(text: String) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
    } else {
        text
    }
}

/// Rows under heads.
#[derive(Clone, Debug)]
pub struct Table<const COLUMNS: usize> {
    heads: [&'static str; COLUMNS],
    rows: Vec<[Cell; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without rows.
    pub fn new(heads: [&'static str; COLUMNS]) -> Self {
        Self { heads, rows: Vec::new() }
    }

    /// Adds a row below.
    pub fn push(&mut self, row: [Cell; COLUMNS]) {
        self.rows.push(row);
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first columns alone.
    pub fn first<const SOME: usize>(&self) -> Table<SOME> {
        const { assert!(SOME <= COLUMNS) };
        let rows = self.rows.iter();
        Table {
            heads: std::array::from_fn(|column| self.heads[column]),
            rows: rows.map(|row| std::array::from_fn(|column| row[column].clone())).collect(),
        }
    }

    /// The table as text; a line a row, two blanks between columns, none at the end of a line.
    pub fn render(&self, colours: bool) -> String {
        let mut widths = self.heads.map(str::len);
        let heads = [self.heads.map(Cell::from)];
        self.lines(&heads, colours, &mut widths)
    }

    /// The rows, with heads or without, to stand below what was rendered before: no column gets narrower
    /// than `widths`, which grow with the rows.
    pub fn render_below(
        &self,
        with_heads: bool,
        colours: bool,
        widths: &mut [usize; COLUMNS],
    ) -> String {
        let heads = [self.heads.map(Cell::from)];
        self.lines(if with_heads { &heads } else { &[] }, colours, widths)
    }

    fn lines(
        &self,
        heads: &[[Cell; COLUMNS]],
        colours: bool,
        widths: &mut [usize; COLUMNS],
    ) -> String {
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let mut text = String::new();
        for row in heads.iter().chain(&self.rows) {
            let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
            for (column, cell) in row.iter().enumerate().take(last + 1) {
                let coloured = colours && cell.tone != Tone::Plain;
                if coloured {
                    text.push_str(cell.tone.code());
                }
                text.push_str(&cell.text);
                if coloured {
                    text.push_str("\x1b[0m");
                }
                if column < last {
                    let blanks = widths[column] - cell.text.chars().count() + 2;
                    text.extend(std::iter::repeat_n(' ', blanks));
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(["NAME", "STATE", "WHY"]);
        assert!(table.is_empty());
        table.push(["a".into(), Cell::new("held", Tone::Good), Cell::default()]);
        table.push(["größer".into(), Cell::new("x", Tone::Bad), Cell::or_dash(None::<String>)]);
        assert_eq!(
            table.render(false),
            "NAME    STATE  WHY\na       held\ngrößer  x      -\n",
            "by letters, not bytes"
        );
        assert_eq!(
            table.render(true),
            "NAME    STATE  WHY\n\
             a       \x1b[32mheld\x1b[0m\n\
             größer  \x1b[31mx\x1b[0m      -\n",
            "colours take no room"
        );
    }

    #[test]
    fn name_from_a_cluster_commands_no_terminal() {
        let mut table = Table::new(["NAME"]);
        table.push(["a\x1b]0;evil\x07\nb".into()]);
        assert_eq!(table.render(true), "NAME\na?]0;evil??b\n");
    }
}
