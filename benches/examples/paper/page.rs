//! The page that is written: Markdown with tables and figures.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;

/// A page under way.
pub(crate) struct Page {
    text: String,
    /// Where figures go.
    figures: PathBuf,
}

impl Page {
    pub(crate) fn new(introduction: &str, figures: PathBuf) -> Page {
        Page { text: introduction.to_owned(), figures }
    }

    pub(crate) fn heading(&mut self, heading: &str) {
        let _ = write!(self.text, "\n## {heading}\n");
    }

    /// Sentences, one a line.
    pub(crate) fn sentences<S: AsRef<str>>(&mut self, sentences: impl IntoIterator<Item = S>) {
        self.text.push('\n');
        for sentence in sentences {
            let _ = writeln!(self.text, "{}", sentence.as_ref());
        }
    }

    /// A table whose first column has names and the others numbers.
    pub(crate) fn table<C: AsRef<str>>(&mut self, columns: &[C], rows: &[(String, Vec<String>)]) {
        let columns: Vec<&str> = columns.iter().map(AsRef::as_ref).collect();
        let rule = vec!["--:"; columns.len() - 1].join(" | ");
        let _ = write!(self.text, "\n| {} |\n| --- | {rule} |\n", columns.join(" | "));
        for (name, cells) in rows {
            let _ = writeln!(self.text, "| {name} | {} |", cells.join(" | "));
        }
    }

    /// A figure that `draw` puts into the file whose path it is given.
    pub(crate) fn figure(
        &mut self,
        name: &str,
        about: &str,
        draw: impl FnOnce(&std::path::Path) -> Result<()>,
    ) -> Result<()> {
        let file = format!("paper-{name}.svg");
        let _ = write!(self.text, "\n![{about}](figures/{file})\n");
        draw(&self.figures.join(file))
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// A change in percent with its sign.
pub(crate) fn percent(ratio: f64) -> String {
    format!("{:+.1} %", 100.0 * (ratio - 1.0))
}

/// The mean.
pub(crate) fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// The middle one in size, or the mean of the two in the middle.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { sorted[half - 1].midpoint(sorted[half]) }
}
