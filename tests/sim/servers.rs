//! The two database servers.

use cloud_mirror::base::Epoch;

/// What a connection attempt meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Answers 57P03.
    Starting,
    /// Refuses connections.
    Down,
    /// Accepts nothing and refuses nothing.
    Frozen,
}

#[derive(Debug)]
pub struct Server {
    pub health: Health,
    pub fence: Option<Row>,
    /// Rows acknowledged to clients here.
    pub rows: u64,
    /// On the cloud: rows of local that have been applied.
    pub mirrored: u64,
    pub is_promoted: bool,
    /// Counts changes of health, so that a planned change knows whether it is still meant.
    pub life: u64,
    /// True time of the last change to `Up`.
    pub up_since: u64,
}

/// The row of `cloud_mirror.fence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub epoch: Epoch,
    pub is_fenced: bool,
}

impl Server {
    pub fn new() -> Self {
        let health = Health::Up;
        Self { health, fence: None, rows: 0, mirrored: 0, is_promoted: false, life: 0, up_since: 0 }
    }

    /// Writes the fence row unless a newer epoch has.
    pub fn write_fence(&mut self, epoch: Epoch, is_fenced: bool) -> Result<(), String> {
        match self.fence {
            Some(row) if row.epoch > epoch => {
                Err(format!("epoch {} has written, ours is {epoch}", row.epoch))
            }
            _ => {
                self.fence = Some(Row { epoch, is_fenced });
                Ok(())
            }
        }
    }
}
