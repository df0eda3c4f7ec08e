use crate::{IoError, Ticket};

/// The ticket of a request that had ended when it was submitted: one that needed nothing from its drive, or
/// one of a drive that does its work at once.
#[derive(Debug)]
pub struct Ended(Option<Result<(), IoError>>);

impl Ended {
    /// A ticket for this result. It is handed out once; whoever asks again afterwards is told of no error.
    #[must_use]
    pub fn ticket(result: Result<(), IoError>) -> Box<dyn Ticket> {
        Box::new(Self(Some(result)))
    }
}

impl Ticket for Ended {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        Some(self.0.take().unwrap_or(Ok(())))
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        self.0.take().unwrap_or(Ok(()))
    }
}
