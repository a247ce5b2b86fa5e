//! What turns came to, side by side: the middle of all turns, and the middle of the rounds' own ratios, because one
//! round differs from the next by more than the contenders do. Pure.

use std::fmt;

/// What is measured, and with how many decimals it is worth printing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) decimals: usize,
}

pub(super) const fn column(name: &'static str, decimals: usize) -> Column {
    Column { name, decimals }
}

/// What one contender's turn in one round came to, one figure for each column.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) figures: Vec<f64>,
    /// Requests that failed; what is printed of the others is worth little where there are many.
    pub(super) failed: u64,
}

/// A contender with its turns, one for each round.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) turns: Vec<Turn>,
    /// Why there are no more turns.
    pub(super) broken: Option<String>,
}

impl Line {
    pub(super) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), turns: Vec::new(), broken: None }
    }
}

/// All contenders.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) title: String,
    /// The contender that the others are compared with.
    pub(super) reference: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) lines: Vec<Line>,
}

/// The middle of all; nothing where there are none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

impl Table {
    /// Forgets the first rounds, in which caches are cold and pools empty.
    pub(super) fn without_first(mut self, rounds: usize) -> Self {
        for line in &mut self.lines {
            line.turns.drain(..rounds.min(line.turns.len()));
        }
        self
    }

    /// What each adds to what `base` takes, round by round; `base` itself goes.
    pub(super) fn above(mut self, base: &str, title: String, columns: &'static [Column]) -> Self {
        let Some(place) = self.lines.iter().position(|line| line.name == base) else { return self };
        let base = self.lines.remove(place);
        for line in &mut self.lines {
            for (turn, least) in line.turns.iter_mut().zip(&base.turns) {
                turn.figures.iter_mut().zip(&least.figures).for_each(|(figure, least)| *figure -= least);
            }
        }
        Self { title, columns, ..self }
    }

    /// The middle of the rounds' ratios of a line to the reference.
    fn ratio(&self, line: &Line, column: usize) -> Option<f64> {
        let reference = self.lines.iter().find(|line| line.name == self.reference)?;
        let figure = |turn: &Turn| turn.figures.get(column).copied();
        let pairs = line.turns.iter().zip(&reference.turns);
        let ratios = pairs.filter_map(|(turn, beside)| Some(figure(turn)? / figure(beside)?));
        median(ratios.filter(|ratio| ratio.is_finite()))
    }
}

/// A figure with its thousands set apart.
fn number(value: f64, decimals: usize) -> String {
    let plain = format!("{value:.decimals$}");
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut apart = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    format!("{sign}{apart}{rest}")
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "\n{}", self.title)?;
        let beside = format!("× {}", self.reference);
        write!(out, "{:<14}", "")?;
        for column in self.columns {
            write!(out, " {:>22} {beside:>9}", column.name)?;
        }
        writeln!(out)?;
        for line in &self.lines {
            write!(out, "{:<14}", line.name)?;
            for (place, column) in self.columns.iter().enumerate() {
                let middle = median(line.turns.iter().filter_map(|turn| turn.figures.get(place).copied()));
                let middle = middle.map_or("-".to_owned(), |middle| number(middle, column.decimals));
                let ratio = self.ratio(line, place).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                write!(out, " {middle:>22} {ratio:>9}")?;
            }
            let failed: u64 = line.turns.iter().map(|turn| turn.failed).sum();
            if failed > 0 {
                write!(out, "  ({failed} requests failed)")?;
            }
            writeln!(out)?;
            if let Some(why) = &line.broken {
                writeln!(out, "{:<14} not measured: {why}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[Column] = &[column("requests/s", 0)];

    fn table(lines: &[(&str, &[f64])]) -> Table {
        let lines = lines.iter().map(|(name, figures)| {
            let turns = figures.iter().map(|figure| Turn { figures: vec![*figure], failed: 0 });
            Line { turns: turns.collect(), ..Line::of(name) }
        });
        Table { title: String::new(), reference: "nginx", columns: ONE, lines: lines.collect() }
    }

    #[test]
    fn ratios_are_of_each_round_and_the_middle_of_them_counts() {
        // The ratio of the medians would be 1.
        let table = table(&[("nginx", &[10.0, 20.0, 30.0]), ("plane", &[20.0, 10.0, 60.0])]);
        assert_eq!(table.ratio(&table.lines[1], 0), Some(2.0));
        assert_eq!(table.ratio(&table.lines[0], 0), Some(1.0));
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn what_is_added_is_compared_and_not_the_whole() {
        let table = table(&[("direct", &[10.0, 20.0]), ("nginx", &[12.0, 22.0]), ("plane", &[11.0, 21.0])]);
        let added = table.above("direct", String::new(), ONE);
        assert_eq!(added.lines.len(), 2);
        assert_eq!(added.ratio(&added.lines[1], 0), Some(0.5));
    }

    #[test]
    fn the_first_rounds_do_not_count() {
        let table = table(&[("nginx", &[1.0, 10.0]), ("plane", &[9.0, 20.0])]).without_first(1);
        assert_eq!(table.ratio(&table.lines[1], 0), Some(2.0));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(number(1_234_567.0, 0), "1,234,567");
        assert_eq!(number(-1234.56, 1), "-1,234.6");
        assert_eq!(number(123.0, 0), "123");
    }
}
