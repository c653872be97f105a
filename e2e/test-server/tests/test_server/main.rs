//! The test server as a process, seen by a client that takes nothing for granted.

#[cfg(test)]
mod basics;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod modern;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
