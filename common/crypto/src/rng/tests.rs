use super::*;
use crate::testing::{Failing, NO_SOURCE, Seeded};

/// Returns what a script says, draw by draw.
struct Scripted(Vec<[u8; 32]>);

impl Random for Scripted {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        out.copy_from_slice(&self.0.remove(0));
        Ok(())
    }
}

fn distinct(first: u8) -> [u8; 32] {
    std::array::from_fn(|at| first.wrapping_add(at as u8))
}

/// R2.5: the generator of the operating system passes its check at start, and fills whole buffers.
#[test]
fn the_operating_systems_generator_passes() {
    let mut rng = OsRandom::checked().unwrap();
    let mut buffers = [[0; 64]; 2];
    for buffer in &mut buffers {
        rng.fill(buffer).unwrap();
        assert!(buffer[48..].iter().any(|octet| *octet != 0), "the end of the buffer was filled too");
    }
    assert_ne!(buffers[0], buffers[1]);
}

/// R2.5: broken sources are refused, each with its own reason.
#[test]
fn broken_sources_are_refused() {
    assert_eq!(health_check(&mut Failing), Err(NO_SOURCE));
    for octet in [0, 0xff, 0x5a] {
        assert_eq!(health_check(&mut Scripted(vec![[octet; 32]])), Err(RandomError::Constant));
        assert_eq!(health_check(&mut Scripted(vec![distinct(1), [octet; 32]])), Err(RandomError::Constant));
    }
    assert_eq!(health_check(&mut Scripted(vec![distinct(7), distinct(7)])), Err(RandomError::Repeating));
    assert_eq!(health_check(&mut Scripted(vec![distinct(7), distinct(8)])), Ok(()));
    assert_eq!(health_check(&mut Seeded::new(1)), Ok(()));
}

#[test]
fn errors_say_what_to_do() {
    assert!(NO_SOURCE.to_string().contains("error 38"), "{NO_SOURCE}");
    assert!(NO_SOURCE.to_string().contains("seccomp"), "{NO_SOURCE}");
}
