//! Colours for words on a terminal.

use std::io::IsTerminal;

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Coloured,
}

/// What a word says about how things are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tone {
    Good,
    Doubtful,
    Bad,
    /// Neither: it stands out.
    Strong,
}

impl Paint {
    /// <https://no-color.org>
    pub fn for_output() -> Self {
        let is_wished = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match is_wished && std::io::stdout().is_terminal() {
            true => Paint::Coloured,
            false => Paint::Plain,
        }
    }

    pub fn word(self, tone: Tone, word: &str) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Doubtful => 33,
            Tone::Bad => 31,
            Tone::Strong => 1,
        };
        match self {
            Paint::Plain => word.to_owned(),
            Paint::Coloured => format!("\x1b[{code}m{word}\x1b[0m"),
        }
    }
}
