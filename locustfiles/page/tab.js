// Shows our page under Locust's tabs while ours is the one that is open.
const frame = document.createElement("iframe");
frame.src = "./headroom/";
frame.title = "Azure OpenAI";
frame.style.cssText = "display:none;border:0;width:100%;height:calc(100vh - 190px)";
document.body.append(frame);
setInterval(() => {
  const open = new URLSearchParams(location.search).get("tab") === "headroom" && document.querySelector("[role=tab]");
  frame.style.display = open ? "block" : "none";
}, 200);
