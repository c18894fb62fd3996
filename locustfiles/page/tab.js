// Shows our page over the empty panel of our tab, whose own height is the whole window's, while the tab is open.
const frame = document.createElement("iframe");
frame.src = "./headroom/";
frame.title = "Azure OpenAI";
frame.style.cssText = "display:none;position:absolute;top:125px;left:0;border:0;width:100%;height:calc(100vh - 180px)";
document.body.append(frame);
setInterval(() => {
  const open = new URLSearchParams(location.search).get("tab") === "headroom" && document.querySelector("[role=tab]");
  frame.style.display = open ? "block" : "none";
}, 200);
