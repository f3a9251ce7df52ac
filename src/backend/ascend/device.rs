//! Devices, streams and events as values that give themselves back.
//!
//! A [`Device`] belongs to the thread that opened it, and so does all that is made on it: none of these types can be sent
//! to another thread. That is CANN's own rule (a context is the thread's that set it) in the type system. A rank of an
//! engine is one thread with one device; calls on the host's threads are never made.
//!
//! Everything made on a device holds it. So the order in which values are dropped does not matter: streams, events and
//! memory go first, then the context, then the device is reset. A failure while giving back is logged, because there is
//! nobody to tell.

use super::acl::{self, aclrtContext, aclrtEvent, aclrtStream};
use super::errors;
use super::open::Cann;
use super::probe;
use super::soc::Facts;
use crate::base::error::{Error, Result};
use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Longest single wait for an event: between two, a wait can be ended.
const ASK_MILLISECONDS: u64 = 200;
/// How often a release that cannot wait with a limit is asked.
const POLL: Duration = Duration::from_micros(20);

/// A device with a context of its own, current on this thread. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Device(Rc<DeviceInner>);

#[derive(Debug)]
struct DeviceInner {
    bound: Bound,
    soc: String,
    facts: &'static Facts,
}

/// What is to be given back: the device set on this thread, and a context once there is one.
#[derive(Debug)]
struct Bound {
    cann: &'static Cann,
    id: i32,
    context: aclrtContext,
}

impl Device {
    /// Sets the device on this thread and makes a context, apart from the one that the host may share with others.
    /// `Unsupported` for a chip that this backend does not know.
    pub fn open(cann: &'static Cann, id: u32) -> Result<Device> {
        let acl = &cann.acl;
        let number = i32::try_from(id).unwrap_or(i32::MAX);
        // SAFETY: any number may be given.
        acl.check("aclrtSetDevice", unsafe { (acl.aclrtSetDevice)(number) })?;
        let mut bound = Bound { cann, id: number, context: std::ptr::null_mut() };
        // SAFETY: a valid pointer is written to; the device is set.
        acl.check("aclrtCreateContext", unsafe { (acl.aclrtCreateContext)(&mut bound.context, number) })?;
        // SAFETY: the context was made above.
        acl.check("aclrtSetCurrentContext", unsafe { (acl.aclrtSetCurrentContext)(bound.context) })?;
        // SAFETY: no preconditions; NULL or a string that stays.
        let soc = unsafe { errors::text((acl.aclrtGetSocName)()) };
        let soc = soc.ok_or_else(|| super::open::stub(&cann.facts.acl_path))?;
        let facts = Facts::of(&soc)?;
        Ok(Device(Rc::new(DeviceInner { bound, soc, facts })))
    }

    /// CANN.
    pub fn cann(&self) -> &'static Cann {
        self.0.bound.cann
    }

    /// Its number in this process.
    pub fn id(&self) -> u32 {
        self.0.bound.id as u32
    }

    /// The chip's name.
    pub fn soc(&self) -> &str {
        &self.0.soc
    }

    /// What the chip can do.
    pub fn facts(&self) -> &'static Facts {
        self.0.facts
    }

    /// Free bytes and all bytes of its memory, as the driver counts them.
    pub fn memory(&self) -> Result<(usize, usize)> {
        probe::memory_of(self.cann())
    }

    /// Waits for all work of all streams.
    pub fn synchronize(&self) -> Result<()> {
        let acl = &self.cann().acl;
        // SAFETY: this thread has the device's context.
        acl.check("aclrtSynchronizeDevice", unsafe { (acl.aclrtSynchronizeDevice)() })
    }

    /// Logs what went wrong while something was given back.
    pub(super) fn gave_back(&self, call: &str, code: i32) {
        log_failure(self.cann(), call, code);
    }
}

fn log_failure(cann: &Cann, call: &str, code: i32) {
    if let Err(error) = cann.acl.check(call, code) {
        log::warn!(target: "aquila::npu", "while giving back: {error}");
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let acl = &self.cann.acl;
        if !self.context.is_null() {
            // SAFETY: made by `open` on this thread, destroyed once; all that was made in it held the device.
            log_failure(self.cann, "aclrtDestroyContext", unsafe { (acl.aclrtDestroyContext)(self.context) });
        }
        // SAFETY: set by `open` on this thread; set and reset are counted.
        log_failure(self.cann, "aclrtResetDevice", unsafe { (acl.aclrtResetDevice)(self.id) });
    }
}

/// Work that the device does in the order in which it was put in. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Stream(Rc<StreamInner>);

#[derive(Debug)]
struct StreamInner {
    device: Device,
    stream: aclrtStream,
    given_up: Cell<bool>,
}

impl Stream {
    /// A stream of a device.
    pub fn new(device: &Device) -> Result<Stream> {
        let acl = &device.cann().acl;
        let mut stream = std::ptr::null_mut();
        let flags = acl::ACL_STREAM_FAST_LAUNCH | acl::ACL_STREAM_FAST_SYNC;
        // SAFETY: a valid pointer is written to; this thread has the device's context.
        let code = unsafe { (acl.aclrtCreateStreamWithConfig)(&mut stream, 0, flags) };
        acl.check("aclrtCreateStreamWithConfig", code)?;
        Ok(Stream(Rc::new(StreamInner { device: device.clone(), stream, given_up: Cell::new(false) })))
    }

    /// CANN's handle, which lives as long as this.
    pub fn as_raw(&self) -> aclrtStream {
        self.0.stream
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Waits for all work that was put in, at most so long. A `Device` error with the number 507046 when that was not
    /// long enough: the work goes on, and its memory must stay.
    pub fn synchronize(&self, milliseconds: u32) -> Result<()> {
        let acl = &self.device().cann().acl;
        let limit = i32::try_from(milliseconds).unwrap_or(i32::MAX);
        // SAFETY: the stream is alive and of this thread's context.
        let code = unsafe { (acl.aclrtSynchronizeStreamWithTimeout)(self.as_raw(), limit) };
        acl.check("aclrtSynchronizeStreamWithTimeout", code)
    }

    /// Whether all work is done.
    pub fn is_idle(&self) -> Result<bool> {
        let acl = &self.device().cann().acl;
        let mut status = 0;
        // SAFETY: a valid number is written to; the stream is alive.
        acl.check("aclrtStreamQuery", unsafe { (acl.aclrtStreamQuery)(self.as_raw(), &mut status) })?;
        Ok(status == acl::ACL_STREAM_STATUS_COMPLETE)
    }

    /// Gives the stream up with what is in it, because the device no longer answers: memory may be given back then.
    pub fn give_up(&self) {
        let inner = &self.0;
        let acl = &inner.device.cann().acl;
        if let Some(function) = acl.aclrtDestroyStreamForce
            && !inner.given_up.replace(true)
        {
            // SAFETY: made by `new`; it is not destroyed again.
            inner.device.gave_back("aclrtDestroyStreamForce", unsafe { function(inner.stream) });
        }
    }

    /// Lets later work of this stream begin only when `event`, recorded before, was reached.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        let acl = &self.device().cann().acl;
        // SAFETY: both are alive and of this thread's context.
        acl.check("aclrtStreamWaitEvent", unsafe { (acl.aclrtStreamWaitEvent)(self.as_raw(), event.event) })
    }
}

impl Drop for StreamInner {
    fn drop(&mut self) {
        if self.given_up.get() {
            return;
        }
        let acl = &self.device.cann().acl;
        // SAFETY: made by `new`, destroyed once.
        self.device.gave_back("aclrtDestroyStream", unsafe { (acl.aclrtDestroyStream)(self.stream) });
    }
}

/// A mark in a stream that the host and other streams can wait for, and that knows its time.
#[derive(Debug)]
pub struct Event {
    device: Device,
    event: aclrtEvent,
}

impl Event {
    /// An event of a device, in no stream yet.
    pub fn new(device: &Device) -> Result<Event> {
        let acl = &device.cann().acl;
        let mut event = std::ptr::null_mut();
        let flags = acl::ACL_EVENT_SYNC | acl::ACL_EVENT_TIME_LINE;
        // SAFETY: a valid pointer is written to; this thread has the device's context.
        let code = unsafe { (acl.aclrtCreateEventWithFlag)(&mut event, flags) };
        acl.check("aclrtCreateEventWithFlag", code)?;
        Ok(Event { device: device.clone(), event })
    }

    /// Puts the mark behind all work that is in the stream now.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        let acl = &self.device.cann().acl;
        // SAFETY: both are alive and of this thread's context.
        acl.check("aclrtRecordEvent", unsafe { (acl.aclrtRecordEvent)(self.event, stream.as_raw()) })
    }

    /// Whether it was reached.
    pub fn is_reached(&self) -> Result<bool> {
        let acl = &self.device.cann().acl;
        let mut status = 0;
        // SAFETY: a valid number is written to; the event is alive.
        acl.check("aclrtQueryEventStatus", unsafe { (acl.aclrtQueryEventStatus)(self.event, &mut status) })?;
        Ok(status == acl::ACL_EVENT_RECORDED_STATUS_COMPLETE)
    }

    /// Waits until it is reached, at most so long: then a `Device` error with the number 107019.
    pub fn synchronize(&self, milliseconds: u32) -> Result<()> {
        self.synchronize_while(milliseconds, &|| true)
    }

    /// The same; `keep_waiting` is asked now and then, and ends the wait with `Device` where it says no.
    pub fn synchronize_while(&self, milliseconds: u32, keep_waiting: &dyn Fn() -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            let left = u64::from(milliseconds).saturating_sub(started.elapsed().as_millis() as u64);
            match self.wait_a_while(left.min(ASK_MILLISECONDS))? {
                true => return Ok(()),
                false if left == 0 => return Err(self.too_late(milliseconds)),
                false => {}
            }
            crate::ensure!(
                keep_waiting(),
                Device,
                "npu:{}: its work was given up, because another rank of the group failed",
                self.device.id()
            );
        }
    }

    /// Waits at most so long; whether it was reached. Older releases wait without limit only, so they are asked again and
    /// again.
    fn wait_a_while(&self, milliseconds: u64) -> Result<bool> {
        let acl = &self.device.cann().acl;
        let Some(function) = acl.aclrtSynchronizeEventWithTimeout else {
            let started = Instant::now();
            while !self.is_reached()? {
                if started.elapsed().as_millis() as u64 >= milliseconds {
                    return Ok(false);
                }
                std::thread::sleep(POLL);
            }
            return Ok(true);
        };
        // SAFETY: the event is alive.
        match unsafe { function(self.event, milliseconds as i32) } {
            acl::ACL_ERROR_RT_WAIT_TIMEOUT | acl::ACL_ERROR_RT_EVENT_SYNC_TIMEOUT => Ok(false),
            code => acl.check("aclrtSynchronizeEventWithTimeout", code).map(|()| true),
        }
    }

    fn too_late(&self, milliseconds: u32) -> Error {
        let acl = &self.device.cann().acl;
        let call = format!("npu:{}: work did not end within {milliseconds} ms", self.device.id());
        acl.error(errors::ACL_CODES, &call, acl::ACL_ERROR_RT_WAIT_TIMEOUT)
    }

    /// Milliseconds from this event to a later one, both reached.
    pub fn milliseconds_to(&self, later: &Event) -> Result<f32> {
        let acl = &self.device.cann().acl;
        let mut milliseconds = 0.0;
        // SAFETY: a valid number is written to; both events are alive.
        let code = unsafe { (acl.aclrtEventElapsedTime)(&mut milliseconds, self.event, later.event) };
        acl.check("aclrtEventElapsedTime", code)?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let acl = &self.device.cann().acl;
        // SAFETY: made by `new`, destroyed once.
        self.device.gave_back("aclrtDestroyEvent", unsafe { (acl.aclrtDestroyEvent)(self.event) });
    }
}

/// An address on a device, or in memory that it reads. Only the device may follow it.
pub type DevicePointer = *mut c_void;
