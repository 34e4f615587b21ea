// The memory ports of the accelerator, as references to the pins of Verilator's model: build.py writes their names into interface.h.
#pragma once

#include "Vaccelerator.h"
#include "interface.h"

// One AXI4 port of the accelerator. Data of any width is bytes, lowest first.
struct Pins {
    CData &arvalid, &arready, &rvalid, &rready, &rlast, &rresp, &awvalid, &awready, &wvalid, &wready, &wlast, &bvalid, &bready,
        &bresp;
    IData &araddr, &awaddr;
    CData &arlen, &arsize, &arburst, &awlen, &awsize, &awburst;
    void* rdata;
    const void* wdata;
    const Strobe& wstrb;
#ifdef PORT_IDS
    CData &arid, &rid, &awid, &bid;
#endif
};

// BIND(name): the port of that name of the model `dut`.
#ifdef PORT_IDS
#define BIND_IDS(port) dut->port##_arid, dut->port##_rid, dut->port##_awid, dut->port##_bid,
#else
#define BIND_IDS(port)
#endif
#define BIND(port) Pins{                                                                                                  \
    dut->port##_arvalid, dut->port##_arready, dut->port##_rvalid, dut->port##_rready, dut->port##_rlast, dut->port##_rresp, \
    dut->port##_awvalid, dut->port##_awready, dut->port##_wvalid, dut->port##_wready, dut->port##_wlast,                    \
    dut->port##_bvalid, dut->port##_bready, dut->port##_bresp, dut->port##_araddr, dut->port##_awaddr,                      \
    dut->port##_arlen, dut->port##_arsize, dut->port##_arburst, dut->port##_awlen, dut->port##_awsize,                      \
    dut->port##_awburst, &dut->port##_rdata, &dut->port##_wdata, dut->port##_wstrb, BIND_IDS(port)},
