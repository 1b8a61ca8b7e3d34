//! What a trial that came back leaves: nothing strikes until the next one, so nothing of it may change meanwhile.

use anyhow::Result;

/// What holds from the end of a trial to the next incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    session: String,
    /// Whether its TCP stream is whole.
    tcp: bool,
}

impl Standing {
    pub(super) fn new(session: String, tcp: bool) -> Self {
        Self { session, tcp }
    }

    /// What is not as it was left. It goes on from what is there now: each change is told once.
    pub(super) fn changes(&mut self, session: Result<String>, tcp: Result<()>) -> Vec<String> {
        let mut found = Vec::new();
        match session {
            Ok(now) if now == self.session => {}
            Ok(now) => {
                let before = std::mem::replace(&mut self.session, now);
                found.push(format!(
                    "session {before} became '{}' and nothing had struck it (I2)",
                    self.session
                ));
            }
            Err(error) => found.push(format!("{error:#}")),
        }
        if let Err(error) = tcp
            && std::mem::replace(&mut self.tcp, false)
        {
            found.push(format!("{error:#}, and nothing had struck it"));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    /// R8.1, I2: a session or a TCP stream that is lost between two trials is told, once; one that its trial had lost is
    /// not told again.
    #[test]
    fn r8_1_what_changes_between_two_trials_is_told_once() {
        let mut whole = Standing::new("a".into(), true);
        assert_eq!(whole.changes(Ok("a".into()), Ok(())), Vec::<String>::new());
        let told = whole.changes(Ok("b".into()), Err(anyhow!("the TCP stream broke: reset")));
        let [session, tcp] = told.as_slice() else { panic!("{told:?}") };
        assert!(session.contains("session a became 'b'") && tcp.contains("broke: reset"), "{told:?}");
        assert_eq!(whole.changes(Ok("b".into()), Err(anyhow!("the TCP stream broke"))), Vec::<String>::new());
        assert!(whole.changes(Ok(String::new()), Ok(()))[0].contains("session b became ''"));
        assert_eq!(whole.changes(Err(anyhow!("it does not answer")), Ok(())), ["it does not answer"]);
        assert!(Standing::new("a".into(), false).changes(Ok("a".into()), Err(anyhow!("broke"))).is_empty());
    }
}
