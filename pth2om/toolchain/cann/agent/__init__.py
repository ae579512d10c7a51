"""The board agent: what runs beside the NPU, in a Python that has ``acl``.

It is shipped as one file (`pth2om.toolchain.cann.shipping`) to machines with Python 3.7, so its modules use the
standard library, NumPy and ``acl`` only, nothing of pth2om, and no syntax that is newer.

::

    __main__    the verbs: serve, worker, doctor, version
    frames      the protocol: length, JSON header, raw bytes
    supervisor  answers the frames; holds the lease, the uploads, the worker; never imports acl
    child       a worker process, and how it ended
    worker      the only process that imports acl
    acl_binding a model: the calls of acl in their order
    acl_device  the device and its memory
    shared      tensors between supervisor and worker: mapped files
    compile     atc as a child: its settings, limits, memory
    environment what set_env.sh exports, and the Python that has acl
    machine     what the machine is: device nodes, driver, CANN
    lease       one device job at a time
    blobs       uploaded files by their sha256
"""
