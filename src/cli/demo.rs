//! `cloud-mirror demo`.

use crate::app::Exit;
use clap::Args;

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Leave the servers and the proxy running at the end, to play on
    #[arg(long)]
    pub keep: bool,
}

/// Tells and shows the story.
pub fn run(_arguments: DemoArguments) -> anyhow::Result<Exit> {
    anyhow::bail!("this build has no demo in it yet")
}
