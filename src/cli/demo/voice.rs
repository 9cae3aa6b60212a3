//! How the story is told: numbered acts, facts below them, on a terminal with colours and a bar.

use crate::cli::paint::{Paint, Tone};
use crate::cli::status::size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};

/// Tells.
pub struct Voice {
    paint: Paint,
    acts: u32,
}

impl Voice {
    pub fn new() -> Self {
        Self { paint: Paint::for_output(), acts: 0 }
    }

    /// A new act begins.
    pub fn act(&mut self, title: &str) {
        self.acts += 1;
        let title = self.paint.word(Tone::Strong, &format!("{}. {title}", self.acts));
        self.say(&format!("\n{title}"));
    }

    /// One or more lines below the act.
    pub fn fact(&self, text: &str) {
        for line in text.lines() {
            self.say(format!("   {line}").trim_end());
        }
    }

    /// The same, coloured.
    pub fn toned(&self, tone: Tone, text: &str) {
        for line in text.lines() {
            self.fact(&self.paint.word(tone, line));
        }
    }

    /// Something to type.
    pub fn command(&self, line: &str) {
        self.fact(&format!("$ {line}"));
    }

    /// A line as it is. A reader that has seen enough is no failure.
    pub fn say(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }

    /// How far a copy is.
    pub fn progress(&self) -> Progress {
        if !std::io::stdout().is_terminal() {
            return Progress::Lines { told: 0 };
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stdout());
        // A template that cannot be read would be our mistake, and the default style does as well.
        if let Ok(style) = ProgressStyle::with_template("   {bar:40} {percent:>3} %  {msg}") {
            bar.set_style(style.progress_chars("█▌░"));
        }
        Progress::Bar(bar)
    }
}

/// A bar on a terminal, a line at every quarter elsewhere.
pub enum Progress {
    Bar(ProgressBar),
    Lines { told: u64 },
}

impl Progress {
    /// So many bytes of so many are done.
    pub fn at(&mut self, done: u64, total: u64, voice: &Voice) {
        if total == 0 {
            return;
        }
        let done = done.min(total);
        let text = format!("{} of {}", size(done), size(total));
        match self {
            Progress::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(text);
            }
            Progress::Lines { told } => {
                let quarter = u64::try_from(u128::from(done) * 4 / u128::from(total)).unwrap_or(4);
                if quarter > *told {
                    *told = quarter;
                    voice.fact(&format!("copied {text}"));
                }
            }
        }
    }

    /// It is over.
    pub fn end(self) {
        if let Progress::Bar(bar) = self {
            bar.finish();
        }
    }
}
