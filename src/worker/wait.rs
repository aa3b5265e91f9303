//! Waits for what comes over a socket awake at first: a question to a process beside this one mostly has its answer within
//! microseconds, and to be woken takes longer than that.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long to look again and again before sleeping.
const AWAKE: Duration = Duration::from_micros(150);
/// After so many waits in a row that were longer, as on a busy machine, looking again is of no use...
const IN_VAIN: u32 = 4;
/// ...for so many.
const ASLEEP: u32 = 16;

/// A socket whose reader stays awake for a moment.
#[derive(Debug)]
pub struct Alert {
    stream: UnixStream,
    /// Longer waits in a row.
    in_vain: u32,
}

impl Alert {
    /// Over this socket.
    pub fn new(stream: UnixStream) -> Alert {
        Alert { stream, in_vain: 0 }
    }
}

impl Read for Alert {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let awake = if self.in_vain < IN_VAIN { AWAKE } else { Duration::ZERO };
        let began = Instant::now();
        loop {
            match recv(&self.stream, &mut *into, RecvFlags::DONTWAIT) {
                Ok((read, _)) => {
                    self.in_vain = 0;
                    return Ok(read);
                }
                Err(Errno::AGAIN | Errno::INTR) if began.elapsed() < awake => std::hint::spin_loop(),
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.in_vain = (self.in_vain + 1) % (IN_VAIN + ASLEEP);
                    return self.stream.read(into);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Alert {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_at_once_later_and_never_is_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Alert::new(ours);
        let mut got = [0; 8];
        theirs.write_all(b"now").unwrap();
        assert_eq!(ours.read(&mut got).unwrap(), 3);
        let later = std::thread::spawn(move || {
            std::thread::sleep(20 * AWAKE);
            theirs.write_all(b"later").unwrap();
        });
        assert_eq!(ours.read(&mut got).unwrap(), 5);
        assert_eq!((&got[..5], ours.in_vain), (&b"later"[..], 1));
        later.join().unwrap();
        assert_eq!((ours.read(&mut got).unwrap(), ours.in_vain), (0, 0));
    }
}
